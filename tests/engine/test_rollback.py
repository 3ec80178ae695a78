"""A model version put in force by hand: which ones can be, and that they serve."""

from __future__ import annotations

import pytest

from ls_backend.engine.retrain import serving_model
from ls_backend.engine.rollback import hindrance, release, rollback
from ls_backend.errors import SettingsError

CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="digit" toName="image" choice="single">'
    + "".join(f'<Choice value="{digit}"/>' for digit in range(10))
    + "</Choices></View>"
)


@pytest.fixture
def trained(make_desk):
    """A project with two versions, of which the gate has refused the second."""
    desk = make_desk(80)
    desk.context.store.projects.set(desk.pid, label_config=CONFIG)
    desk.label(*desk.tasks[:30])
    first = desk.train().version
    desk.label(*desk.tasks[30:60])
    second = desk.train().version
    desk.context.store.versions.set_state(desk.pid, second.version_id, "rejected")
    return desk, first.version_id, second.version_id


def test_a_refused_version_ranks_when_somebody_says_so_until_it_is_released(trained):
    desk, first, second = trained
    store = desk.context.store
    assert serving_model(desk.context, desk.pid).version.version_id == first
    before = store.projects.get(desk.pid).wanted_generation
    assert rollback(store, desk.pid, second).version_id == second
    assert store.projects.get(desk.pid).wanted_generation > before, "the queue is to follow"
    assert serving_model(desk.context, desk.pid).version.version_id == second
    desk.label(*desk.tasks[60:70])
    desk.train()
    assert serving_model(desk.context, desk.pid).version.version_id == second, "whatever is learnt"
    release(store, desk.pid)
    assert serving_model(desk.context, desk.pid).version.version_id not in {first, second}


def test_going_back_without_a_name_passes_over_what_the_gate_has_refused(trained):
    desk, first, _ = trained
    desk.label(*desk.tasks[60:70])
    desk.train()
    assert rollback(desk.context.store, desk.pid).version_id == first


def test_a_version_that_cannot_serve_is_refused_with_the_reason(trained):
    desk, first, second = trained
    store = desk.context.store
    store.versions.set_state(desk.pid, first, "retired")
    with pytest.raises(SettingsError, match="its files are lost"):
        rollback(store, desk.pid, first)
    store.projects.set(desk.pid, label_config=CONFIG.replace('"9"', '"nine"'))
    with pytest.raises(SettingsError, match="other labels than the labelling interface has now"):
        rollback(store, desk.pid, second)
    store.projects.set(desk.pid, label_config="<View/>")
    assert "nothing that can be learnt" in hindrance(desk.project, store.versions.get(desk.pid, second))
    assert desk.project.pinned_version is None


def test_a_project_nobody_has_connected(trained):
    desk, first, _ = trained
    for act in (lambda: rollback(desk.context.store, 99, first), lambda: release(desk.context.store, 99)):
        with pytest.raises(SettingsError, match="Project 99 is not connected"):
            act()
