import numpy as np
import pytest

from ls_backend.demo.digits import LABEL_CONFIG, digits
from ls_backend.engine.known import of_folder, of_project
from ls_backend.engine.replay import plan_in_force, replay
from ls_backend.errors import ConfigUnsupported, SettingsError
from ls_backend.settings import Settings
from ls_backend.strategies import Plan


def silent(_):
    """Take what would be shown while it runs."""


def test_a_project_gives_its_labelled_tasks_and_the_fields_a_plan_names(make_desk):
    desk = make_desk(200, preset="margin", explore=0)
    desk.context.store.projects.ensure(desk.pid, label_config=LABEL_CONFIG)
    desk.label(*range(1, 131))
    desk.label(131, label="a label the config no longer has")
    desk.describe(light={task_id: "dim" if task_id % 2 else "bright" for task_id in range(1, 131)})
    rule = {"field": "light", "weights": {"dim": 2}}
    plans = [plan_in_force(desk.context, desk.pid), Plan.from_json({"objectives": {"metadata": [rule]}})]
    before = desk.view().labelled

    tasks = of_project(desk.context, desk.pid, plans)
    assert plans[0].objectives == Plan.preset("margin").objectives
    assert tasks.class_names == tuple("0123456789")
    assert tasks.classes.tolist() == [int(desk.truth[task_id]) for task_id in range(1, 131)]
    assert tasks.raw.shape == (130, 64)
    assert list(tasks.metadata) == ["light"]
    assert tasks.metadata["light"][:2].tolist() == ["dim", "bright"]
    made = replay(tasks, {"in force": plans[0], "dim": plans[1]}, say=silent, rounds=2, seeds=1)
    assert made.n_labels == (10, 20)
    assert desk.view().labelled.digest == before.digest, "nothing was written"


def test_a_project_without_labels_has_no_tasks(make_desk):
    desk = make_desk(20)
    desk.context.store.projects.ensure(desk.pid, label_config=LABEL_CONFIG)
    assert len(of_project(desk.context, desk.pid, []).classes) == 0


def test_a_project_that_cannot_be_learned_or_is_not_there_is_refused(make_desk):
    desk = make_desk(20)
    with pytest.raises(ConfigUnsupported):
        of_project(desk.context, desk.pid, [])
    with pytest.raises(SettingsError, match="not connected"):
        of_project(desk.context, 99, [])


def test_a_folder_becomes_tasks_of_its_readable_images(tmp_path):
    for item in [item for item in digits(60, seed=0) if item.label in "012"]:
        (tmp_path / item.label / "deeper").mkdir(parents=True, exist_ok=True)
        (tmp_path / item.label / "deeper" / item.name).write_bytes(item.png)
    n_files = [len(list((tmp_path / name / "deeper").iterdir())) for name in "012"]
    (tmp_path / "1" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    (tmp_path / "1" / ".hidden").write_text("not an image")
    (tmp_path / "readme.txt").write_text("not a class")
    (tmp_path / "empty").mkdir()
    tasks = of_folder(Settings(device="cpu"), tmp_path, say=silent)
    assert tasks.class_names == ("0", "1", "2")
    assert np.bincount(tasks.classes).tolist() == n_files
    assert tasks.raw.shape == (sum(n_files), 1280)
    assert len(tasks.unreadable) == 1
    assert "damaged.png" in tasks.unreadable[0]


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="is not a folder"):
        of_folder(Settings(), tmp_path / "nowhere", say=silent)
    with pytest.raises(SettingsError, match="no sub-folders with files"):
        of_folder(Settings(), tmp_path, say=silent)
