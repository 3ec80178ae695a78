import itertools
from datetime import UTC, datetime, timedelta

import pytest
from sklearn.metrics import cohen_kappa_score

from ls_backend.domain import Annotation, Control, LabelSchema
from ls_backend.engine.advice.disagreement import MOST, find_disagreement

ANIMAL = Control("animal", "choices", "image", ("cat", "dog", "cow"))
TAGS = Control("tags", "choices", "image", ("wet", "big"), multiple=True)
BOX = Control("box", "rectanglelabels", "image", ("car", "bus"), multiple=True)
START = datetime(2026, 1, 1, tzinfo=UTC)
_ids = itertools.count(1)


def said(task_id, who, *, minute=0, cancelled=False, **answers):
    """What somebody answered: control -> labels, a region for each where boxes are drawn."""
    regions = []
    for name, labels in answers.items():
        kind = "rectanglelabels" if name == "box" else "choices"
        groups = [[label] for label in labels] if name == "box" else [labels]
        regions += [{"from_name": name, "to_name": "image", "type": kind, "value": {kind: group}} for group in groups]
    at = START + timedelta(minutes=minute)
    return Annotation(next(_ids), task_id, tuple(regions), cancelled, False, who, at, at)


def look(schema, *given):
    by_task = {}
    for one in given:
        by_task.setdefault(one.task_id, []).append(one)
    return find_disagreement(schema, by_task)


def test_the_worst_task_comes_first_with_what_was_said():
    schema = LabelSchema("image", (ANIMAL,))
    found = look(
        schema,
        *(said(1, who, animal=["cat"]) for who in (1, 2, 3)),
        *(said(2, who, animal=["dog" if who == 3 else "cat"]) for who in (1, 2, 3)),
        *(said(3, who, animal=[label]) for who, label in zip((1, 2, 3), ANIMAL.classes, strict=True)),
        said(4, 1, animal=["cow"]),
    )
    assert (found.n_tasks, found.n_disputed) == (3, 2)
    assert [(one.task_id, one.share) for one in found.tasks] == [(3, 1.0), (2, pytest.approx(2 / 3))]
    assert dict(found.tasks[1].answers) == {"cat": 2, "dog": 1}
    assert found.tasks[1].reason == "Of 3 annotators 2 said cat, 1 said dog."


def test_kappa_of_a_pair_is_that_of_scikit_learn():
    ours = ["cat", "cat", "dog", "cow", "cow", "cat", "dog", "dog"]
    theirs = ["cat", "dog", "dog", "cow", "cat", "cat", "dog", "cow"]
    given = [
        said(task, who, animal=[label])
        for who, labels in ((5, ours), (9, theirs))
        for task, label in enumerate(labels, 1)
    ]
    (pair,) = look(LabelSchema("image", (ANIMAL,)), *given).pairs
    assert (pair.annotators, pair.n_answers, pair.agreement) == ((5, 9), 8, 5 / 8)
    assert pair.kappa == pytest.approx(cohen_kappa_score(ours, theirs))


def test_the_latest_annotation_of_an_annotator_counts_and_a_cancelled_one_never():
    schema = LabelSchema("image", (ANIMAL,))
    changed = look(schema, said(1, 1, animal=["dog"]), said(1, 1, minute=1, animal=["cat"]), said(1, 2, animal=["cat"]))
    assert (changed.n_tasks, changed.n_disputed) == (1, 0)
    skipped = look(schema, said(1, 1, animal=["dog"], cancelled=True), said(1, 2, animal=["cat"]))
    assert skipped.n_tasks == 0
    assert "No task has been answered by two" in skipped.sentence


def test_an_annotation_of_nobody_is_no_annotator():
    schema = LabelSchema("image", (ANIMAL,))
    assert look(schema, said(1, None, animal=["dog"]), said(1, 2, animal=["cat"])).n_tasks == 0


def test_several_controls_are_compared_each_by_itself():
    schema = LabelSchema("image", (ANIMAL, TAGS))
    found = look(
        schema,
        said(1, 1, animal=["cat"], tags=["wet", "big"]),
        said(1, 2, animal=["cat"], tags=["big", "wet"]),
        said(2, 1, animal=["cat"], tags=["wet"]),
        said(2, 2, animal=["dog"], tags=["wet"]),
        said(3, 1, animal=["cow"], tags=[]),
        said(3, 2, animal=["cow"], tags=["big"]),
    )
    assert [(one.task_id, one.control) for one in found.tasks] == [(2, "animal"), (3, "tags")]
    assert "1 said nothing" in found.tasks[1].reason
    assert set(found.alpha) == {"animal", "tags"}


def test_of_boxes_it_counts_which_labels_occur_not_how_often():
    schema = LabelSchema("image", (BOX,))
    same = look(schema, said(1, 1, box=["car", "car"]), said(1, 2, box=["car"]))
    other = look(schema, said(1, 1, box=["car", "bus"]), said(1, 2, box=["car"]))
    assert (same.n_disputed, other.n_disputed) == (0, 1)


def test_a_long_list_is_cut_but_counted():
    given = [said(t, who, animal=[ANIMAL.classes[who]]) for t in range(MOST + 5) for who in (0, 1)]
    found = look(LabelSchema("image", (ANIMAL,)), *given)
    assert (len(found.tasks), found.n_disputed) == (MOST, MOST + 5)
