"""Models of the 2.x interface."""

import json

from label_studio_ml.model import LabelStudioMLBase


class Counting(LabelStudioMLBase):
    """Counts what it was told, in its cache; answers with a ModelResponse, as the documentation says."""

    def setup(self):
        self.told = json.loads(self.get("told") or "[]")

    def predict(self, tasks, context=None, **kwargs):
        from label_studio_ml.response import ModelResponse
        from label_studio_sdk.label_interface.objects import PredictionValue

        region = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": ["a"]}}
        drawn = [*self.told, *((context or {}).get("result", []))]
        predictions = [
            PredictionValue(result=[{**region, "meta": {"told": drawn}}], score=0.25),
            [PredictionValue(result=[region], score=0.5), PredictionValue(result=[], score=0.1)],
            PredictionValue(result=[{**region, "score": 0.125}]),
        ]
        return ModelResponse(predictions=predictions[: len(tasks)])

    def fit(self, event, data, **kwargs):
        if event == "START_TRAINING":
            told = [f"{event} {data['project']['id']} {len(kwargs['tasks'])}"]
        else:
            told = [*self.told, f"{event} {data['annotation']['id']} of {data['annotation']['task']}"]
        self.told = told
        self.set("told", json.dumps(told))
        self.set("model_version", f"0.0.{len(told) + 1}")


class Listing(LabelStudioMLBase):
    """Answers with a list of dicts, and takes nothing but what the documentation says."""

    def predict(self, tasks, context=None):
        return [{"result": [], "score": 0.5} for _ in tasks]

    def fit(self, event, data):
        self.set("model_version", "9.9.9")
