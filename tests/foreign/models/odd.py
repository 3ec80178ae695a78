"""Models that do what models in the wild do: each task's text says what."""

import os
import time

from label_studio_ml.model import LabelStudioMLBase


class Obedient(LabelStudioMLBase):
    """Answers well, unless a text tells it otherwise."""

    def predict(self, tasks, context=None, **kwargs):
        texts = [task["data"]["text"] for task in tasks]
        if "raise" in texts:
            raise ValueError(f"no features for one of {len(texts)} texts")
        if "quit" in texts:
            raise SystemExit("I have had enough")
        if "hang" in texts:
            time.sleep(3600)
        if "die" in texts:
            os._exit(7)
        if "crash" in texts:
            os.kill(os.getpid(), 11)
        print('{"entries": []}')
        return [self.entry(text, context) for text in texts if text != "short"]

    def entry(self, text, context):
        odd = {"nothing": {}, "none": None, "number": 3, "alternatives": [choice("a", 0.2), choice("b", 0.7)]}
        return odd.get(
            text, choice(text, 0.75, pid=os.getpid(), context=context, hostname=getattr(self, "hostname", None))
        )

    def fit(self, *args, **kwargs):
        tasks = args[0] if args and not isinstance(args[0], str) else kwargs.get("tasks")
        texts = [task["data"]["text"] for task in tasks]
        if "raise" in texts:
            raise ValueError("cannot learn this")
        if "hang" in texts:
            time.sleep(3600)
        return {"texts": texts}


def choice(label, score, **more):
    region = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [label]}, "meta": more}
    return {"result": [region], "score": score}


class Choosy(LabelStudioMLBase):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        raise RuntimeError("I only work\nwith audio")

    def predict(self, tasks, **kwargs):
        return []


class Slow(LabelStudioMLBase):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        time.sleep(3600)

    def predict(self, tasks, **kwargs):
        return []


class Remembering(LabelStudioMLBase):
    """Says what it was constructed with, and what `fit` got."""

    def predict(self, tasks, **kwargs):
        return [{"result": [], "score": 0.5, "model_version": str(self.train_output.get("seen"))} for _ in tasks]

    def fit(self, completions, workdir=None, **kwargs):
        completions = list(completions)
        seen = {
            "texts": [completion["data"]["text"] for completion in completions],
            "annotations": [len(completion["annotations"]) for completion in completions],
            "completions": [len(completion["completions"]) for completion in completions],
            "workdir": os.path.isdir(workdir),
            "told": sorted(kwargs),
        }
        if "spoil" in seen["texts"]:
            return {"seen": object}
        return {"seen": seen} if completions else None


class WebhookOnly(LabelStudioMLBase):
    """Learns as the webhook tells it to, and cannot do without its words."""

    def predict(self, tasks, **kwargs):
        return [{"result": [], "model_version": self.train_output.get("told", "")} for _ in tasks]

    def fit(self, completions, workdir=None, **kwargs):
        data = kwargs["data"]
        return {"told": f"{kwargs['event']} {data['project']['id']} {data['annotation']['id']} {data['task']['id']}"}


class Stranger:
    pass


class Doubtful(LabelStudioMLBase):
    """Knows how sure it is of some texts, of others it does not say."""

    def predict(self, tasks, context=None, **kwargs):
        scores = {"doubtful": 0.5, "unsaid": None}
        return [choice("b", scores.get(task["data"]["text"], 0.95)) for task in tasks]
