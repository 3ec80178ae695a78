"""Every preset finds in the pool what it asks for; nothing else is computed."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from ls_backend.engine.beliefs import beliefs
from ls_backend.strategies import Plan, Pool, needs, presets, rank, unit_rows
from ls_backend.vision.classifier import Classifier, one_hot
from ls_backend.vision.heads import fit_head

EVERYTHING = {"member_probabilities", "dropout_probabilities", "labelled_probabilities", "predicted_loss"}


@pytest.fixture(scope="module")
def situation():
    """Digits with 60 labels of classes 0 to 8, so that one class of ten has none."""
    data, target = load_digits(return_X_y=True)
    features = unit_rows(data - data.mean(axis=0))
    labelled = np.flatnonzero(target < 9)[:60]
    waiting = np.setdiff1d(np.arange(len(data)), labelled)[:500]
    classes = target[labelled].astype(np.int64)
    return {
        "classifier": Classifier((fit_head(features[labelled], classes, 10),)),
        "features": features[waiting],
        "labelled_features": features[labelled],
        "targets": one_hot(classes, 10),
        "seed": 0,
    }


def test_nothing_is_made_that_is_not_asked_for(situation):
    assert beliefs({"embeddings", "probabilities", "cost_matrix"}, **situation) == {}
    assert set(beliefs({"labelled_probabilities"}, **situation)) == {"labelled_probabilities"}
    assert set(beliefs(EVERYTHING, **situation)) == EVERYTHING


@pytest.mark.parametrize("name", presets())
def test_a_plan_ranks_with_what_it_asked_for(situation, name):
    plan = Plan.preset(name)
    pool = Pool(
        embeddings=situation["features"],
        probabilities=situation["classifier"].probabilities(situation["features"]),
        labelled_embeddings=situation["labelled_features"],
        labelled_counts=situation["targets"].sum(axis=0),
        cost_matrix=1 - np.eye(10),
        **beliefs(needs(plan, has_model=True), **situation),
    )
    ranking = rank(pool, plan, 10, np.random.default_rng(0))
    assert len(ranking.indices) == 10
    assert ranking.regime != "cold start"


def test_labelled_tasks_are_judged_by_the_served_head(situation):
    made = beliefs({"labelled_probabilities"}, **situation)["labelled_probabilities"]
    np.testing.assert_array_equal(made, situation["classifier"].probabilities(situation["labelled_features"]))
    assert made.argmax(axis=1).tolist() == situation["targets"].argmax(axis=1).tolist(), (
        "so few labels are learnt by heart"
    )


def test_before_the_first_model_a_plan_asks_for_no_belief():
    for name in presets():
        assert not needs(Plan.preset(name), has_model=False) & EVERYTHING
