"""A text classifier as label-studio-ml's users write them: it knows that package and nothing of ours."""

import os
import pickle

from label_studio_ml.model import LabelStudioMLBase
from label_studio_ml.utils import get_choice, get_single_tag_keys, is_skipped
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline


class TextClassifier(LabelStudioMLBase):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.from_name, self.to_name, self.value, self.labels = get_single_tag_keys(
            self.parsed_label_config, "Choices", "Text"
        )
        if self.train_output:
            with open(self.train_output["model_file"], "rb") as file:
                self.model = pickle.load(file)
        else:
            self.model = self.fresh().fit(self.labels, self.labels)
        print("ready with", "what was learned" if self.train_output else "names of labels only")

    @staticmethod
    def fresh():
        return make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(C=10))

    def predict(self, tasks, **kwargs):
        rows = self.model.predict_proba([task["data"][self.value] for task in tasks])
        predictions = []
        for row in rows:
            best = row.argmax()
            choice = {
                "from_name": self.from_name,
                "to_name": self.to_name,
                "type": "choices",
                "value": {"choices": [self.model.classes_[best]]},
            }
            predictions.append({"result": [choice], "score": row[best]})
        return predictions

    def fit(self, completions, workdir=None, **kwargs):
        completions = [completion for completion in completions if not is_skipped(completion)]
        texts = [completion["data"][self.value] for completion in completions]
        model = self.fresh().fit(texts, [get_choice(completion) for completion in completions])
        model_file = os.path.join(workdir, "model.pkl")
        with open(model_file, "wb") as file:
            pickle.dump(model, file)
        return {"model_file": model_file, "labels": self.labels}
