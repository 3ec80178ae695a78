"""The base class of 2.x: state lies in a cache below MODEL_DIR, keyed by project."""

import json
import os
from pathlib import Path


class LabelStudioMLBase:
    INITIAL_MODEL_VERSION = "0.0.1"

    def __init__(self, project_id=None, label_config=None):
        self.project_id = project_id or ""
        if label_config is not None:
            self.use_label_config(label_config)
        if not self.model_version:
            self.set("model_version", self.INITIAL_MODEL_VERSION)
        self.setup()

    def setup(self):
        """For subclasses."""

    def use_label_config(self, label_config):
        self.set("label_config", label_config)

    @staticmethod
    def _cache():
        return Path(os.environ["MODEL_DIR"]) / "cache.json"

    def _all(self):
        return json.loads(self._cache().read_text()) if self._cache().exists() else {}

    def get(self, key):
        return self._all().get(f"{self.project_id}/{key}")

    def set(self, key, value):
        assert isinstance(value, str), "the real cache holds texts"
        self._cache().write_text(json.dumps({**self._all(), f"{self.project_id}/{key}": value}))

    @property
    def label_config(self):
        return self.get("label_config")

    @property
    def model_version(self):
        return self.get("model_version")

    def predict(self, tasks, context=None, **kwargs):
        return None

    def fit(self, event, data, **additional_params):
        return None
