"""Foreign models in processes of their own, with the real label-studio-ml or with a stand-in for its next version."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ls_backend.foreign import Predictor

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
CONFIG = (
    '<View><Text name="text" value="$text"/><Choices name="label" toName="text" choice="single">'
    '<Choice value="a"/><Choice value="b"/></Choices></View>'
)


@pytest.fixture
def search(monkeypatch):
    """Say where a model's process looks for modules, before everything else."""

    def at(*folders):
        places = [str(HERE / folder) for folder in folders] + [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(places))

    return at


@pytest.fixture
def first(search, tmp_path):
    """Make predictors with label-studio-ml 1.0.9, the newest on PyPI."""
    yield from _makers(search, tmp_path, "models")


@pytest.fixture
def second(search, tmp_path):
    """Make predictors with the stand-in for label-studio-ml 2.x; it starts quicker, without PyTorch."""
    yield from _makers(search, tmp_path, "second", "models")


def _makers(search, tmp_path, *folders):
    search(*folders)
    made = []

    def make(path, *, timeout_s=60, config=CONFIG, folder="model", **more):
        predictor = Predictor(path, config, tmp_path / folder, timeout_s, project_id=7, **more)
        made.append(predictor)
        return predictor

    yield make
    for predictor in made:
        predictor.close()
