"""Another backbone takes over from the one that serves: two real networks on images of this machine.

No Label Studio is asked: labels and images are here, and the steps of an update are called one by one.
"""

from __future__ import annotations

import itertools
import shutil
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import models as zoo

from ls_backend.engine import backbones, embed_pool, update
from ls_backend.engine import context as engine_context
from ls_backend.engine.context import Context
from ls_backend.engine.predict import predict_tasks
from ls_backend.engine.rerank import rerank
from ls_backend.engine.rollback import release, rollback
from ls_backend.engine.view import view
from ls_backend.errors import BackbonePending
from ls_backend.settings import DEFAULT_BACKBONE, Settings
from ls_backend.vision import weights
from ls_backend.vision.backbones import Backbone

OTHER = "shufflenet_v2_x0_5"
N = 60


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Random weights of a small network: no worse than chance, and not far above it."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    torch.save(zoo.get_model(OTHER, weights=None).state_dict(), folder / f"{OTHER}.pth")
    return folder


class Images:
    """What makes a desk one whose images are files, embedded by what the settings name."""

    def __init__(self, folder, weights_dir, **settings):
        self.folder = folder
        self.files = folder / "files"
        self.files.mkdir(parents=True)
        self._settings = {"weights_dir": weights_dir, "download_weights": False} | settings
        self.context = self._open()
        self.context.store.projects.ensure(self.pid)
        choices = "".join(f'<Choice value="{name}"/>' for name in "0123456789")
        config = (
            f'<View><Image name="image" value="$image"/><Choices name="digit" toName="image">{choices}</Choices></View>'
        )
        self.context.store.projects.set(self.pid, label_config=config)
        self.now = datetime.now(UTC)
        self.truth, self.tasks = {}, []
        self._answers, self._data = itertools.count(1), {}
        digits = load_digits()
        self._pixels, self._digit = (digits.images * 15.9).astype("uint8"), digits.target
        self.arrive(N)

    def _open(self):
        given = {"local_files_root": self.files, "label_studio_url": "http://127.0.0.1:9"}
        return Context(
            Settings(
                data_dir=self.folder / "data", device="cpu", label_studio_api_key="none", **given, **self._settings
            )
        )

    def arrive(self, n):
        """Import tasks."""
        new = list(range(len(self.tasks) + 1, len(self.tasks) + n + 1))
        for task_id in new:
            Image.fromarray(self._pixels[task_id - 1]).convert("RGB").resize((32, 32)).save(
                self.files / f"{task_id}.png"
            )
            self.truth[task_id] = str(self._digit[task_id - 1])
            self._data[task_id] = {"image": f"/data/local-files/?d={task_id}.png"}
        self.tasks += new
        self._write(new, {})
        return new

    def restart(self):
        """Kill the worker and start another one."""
        self.context.close()
        self.context = self._open()

    # -- what the jobs do --

    def embed(self, jobs=100):
        """Run jobs as long as they ask for another one; answer whether the last one did."""
        remaining = True
        while remaining and jobs:
            remaining = embed_pool.embed_pool(self.context, self.pid).remaining
            jobs -= 1
        return remaining

    def update(self):
        """Do what an update does between reading and publishing."""
        serving = backbones.in_force(self.context, self.project)
        seen = view(self.context, self.project, self.schema, serving)
        parts = (self.context, self.project, self.schema, seen)
        seen, model = update._successor(*parts) or (seen, update._model(*parts))
        ranked = rerank(self.context, self.project, self.schema, seen, model, 100)
        return SimpleNamespace(seen=seen, model=model, rows=ranked.rows, backbone=seen.labelled.backbone)

    # -- what can be seen --

    def made_by(self, name):
        """How many images a network has embedded."""
        network = self.context.backbone(name)
        return len(self.context.vectors.known(network.identity, network.dim))


@pytest.fixture
def small_steps(monkeypatch):
    """A job embeds 16 images for the network to come."""
    monkeypatch.setattr(embed_pool, "CHANGE_S", 0.0)


@pytest.fixture
def make_studio(tmp_path, checkpoints, desk_class):
    studio_class = type("Studio", (Images, desk_class), {})
    made = []

    def make(weights_dir=checkpoints, *, labelled=20, deployment=None, **words):
        studio = studio_class(tmp_path / f"studio{len(made)}", weights_dir, **deployment or {})
        made.append(studio)
        studio.settings(**words)
        studio.embed()
        studio.label(*studio.tasks[:labelled])
        return studio

    yield make
    for studio in made:
        studio.context.close()


def test_order_and_predictions_go_on_until_all_is_embedded_and_then_the_other_takes_over(make_studio, small_steps):
    studio = make_studio()
    assert studio.update().model.version.backbone == DEFAULT_BACKBONE
    studio.settings(backbone=OTHER)
    for step in range(3):
        assert studio.embed(jobs=1), "48 of 60"
        assert studio.made_by(OTHER) == 16 * (step + 1)
        studio.label(studio.tasks[20 + step])
        done = studio.update()
        assert done.backbone == done.model.version.backbone == DEFAULT_BACKBONE
        assert done.model.version.n_labels == 21 + step, "every label counts at once"
        assert {row.task_id for row in done.rows} == set(studio.tasks[21 + step :])
        assert all(row.probabilities is not None for row in done.rows)
    (finding,) = studio.problems("backbone-change").values()
    assert "48 of 60" in finding.message
    assert DEFAULT_BACKBONE in finding.message
    assert predict_tasks(studio.context, studio.pid, studio.tasks[:2]) == 2
    generation = studio.project.wanted_generation
    assert not studio.embed(jobs=1)
    assert studio.project.wanted_generation > generation, "the last image wakes the ranking"
    done = studio.update()
    assert done.backbone == done.model.version.backbone == OTHER
    assert done.model.version.n_labels == 23
    assert {row.task_id for row in done.rows} == set(studio.tasks[23:])
    assert studio.problems("backbone-change") == {}
    assert predict_tasks(studio.context, studio.pid, studio.tasks[:2]) == 2
    studio.label(studio.tasks[23])
    assert studio.update().model.version.backbone == OTHER
    assert not backbones.changing(studio.context, studio.project)


def test_a_worker_killed_half_way_goes_on_where_it_was(make_studio, small_steps):
    studio = make_studio()
    studio.update()
    studio.settings(backbone=OTHER)
    studio.embed(jobs=2)
    studio.restart()
    assert studio.update().backbone == DEFAULT_BACKBONE
    studio.embed(jobs=1)
    assert studio.made_by(OTHER) == 48
    studio.embed()
    studio.restart()  # before the update that was to follow
    assert studio.update().backbone == OTHER


def test_a_lost_wake_up_of_the_takeover_comes_again(make_studio):
    studio = make_studio()
    studio.update()
    studio.settings(backbone=OTHER)
    studio.embed()
    generation = studio.project.wanted_generation
    assert not studio.embed()
    assert studio.project.wanted_generation > generation
    studio.update()
    generation = studio.project.wanted_generation
    assert not studio.embed()
    assert studio.project.wanted_generation == generation


def test_new_images_come_first_and_from_the_network_that_serves(make_studio, small_steps):
    studio = make_studio()
    studio.update()
    studio.settings(backbone=OTHER)
    studio.embed(jobs=1)
    new = studio.arrive(3)
    studio.embed(jobs=1)
    assert (studio.made_by(DEFAULT_BACKBONE), studio.made_by(OTHER)) == (N + 3, 16)
    assert set(new) <= {row.task_id for row in studio.update().rows}
    assert predict_tasks(studio.context, studio.pid, [*new, *studio.arrive(1)]) == 4
    studio.embed()
    assert studio.made_by(OTHER) == N + 4
    assert studio.update().backbone == OTHER


def test_going_back_takes_no_embedding(make_studio, monkeypatch):
    studio = make_studio()
    studio.update()
    studio.settings(backbone=OTHER)
    studio.embed()
    assert studio.update().backbone == OTHER
    studio.settings(backbone=DEFAULT_BACKBONE)
    monkeypatch.setattr(Backbone, "embed", None)
    done = studio.update()
    assert done.backbone == done.model.version.backbone == DEFAULT_BACKBONE
    assert not studio.embed()


def test_a_network_that_cannot_be_had_leaves_the_old_one_and_is_named(make_studio, tmp_path, checkpoints, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    studio = make_studio(empty)
    studio.update()
    studio.settings(backbone=OTHER)
    assert not studio.embed()
    studio.label(studio.tasks[20])
    done = studio.update()
    assert done.model.version.n_labels == 21
    assert done.backbone == DEFAULT_BACKBONE
    (finding,) = studio.problems("backbone-unavailable").values()
    assert f"{OTHER}.pth" in finding.message
    assert "goes on serving" in finding.message
    assert "https://" in finding.remedy
    monkeypatch.setattr(engine_context, "RETRY_S", 0.0)
    shutil.copy(checkpoints / f"{OTHER}.pth", empty)
    studio.embed()
    assert studio.update().backbone == OTHER
    assert studio.problems("backbone-unavailable") == {}


def test_a_wrong_setting_taken_back_is_no_problem_any_more(make_studio, tmp_path):
    studio = make_studio(tmp_path / "nowhere")
    studio.update()
    studio.settings(backbone="resnet18")
    studio.embed()
    assert studio.problems("backbone-unavailable")
    studio.settings()
    studio.update()
    assert studio.problems("backbone-unavailable") == {}


def test_a_new_project_whose_network_cannot_be_had_starts_with_the_default(make_studio, tmp_path):
    studio = make_studio(tmp_path / "nowhere", backbone=OTHER)
    assert studio.made_by(DEFAULT_BACKBONE) == N
    assert studio.update().model.version.backbone == DEFAULT_BACKBONE


def test_a_new_project_starts_with_the_network_it_names(make_studio):
    studio = make_studio(backbone=OTHER)
    assert (studio.made_by(OTHER), studio.made_by(DEFAULT_BACKBONE)) == (N, 0)
    assert studio.update().model.version.backbone == OTHER


def test_without_a_model_the_old_one_orders_until_the_other_has_all(make_studio, small_steps):
    studio = make_studio(labelled=0)
    studio.settings(backbone=OTHER)
    studio.embed(jobs=2)
    done = studio.update()
    assert (done.model, done.backbone) == (None, DEFAULT_BACKBONE)
    studio.embed()
    assert studio.update().backbone == OTHER


def test_a_network_that_sees_nothing_is_refused_and_tried_again_with_more_labels(make_studio, tmp_path):
    blind = tmp_path / "blind"
    blind.mkdir()
    state = zoo.get_model(OTHER, weights=None).state_dict()
    torch.save({key: torch.zeros_like(value) for key, value in state.items()}, blind / f"{OTHER}.pth")
    studio = make_studio(blind, labelled=44, holdout=0.5)
    before = studio.update().model.version
    assert before.metrics.n_holdout >= 20
    studio.settings(backbone=OTHER, holdout=0.5)
    studio.embed()
    done = studio.update()
    assert done.backbone == DEFAULT_BACKBONE
    assert done.model.version.version_id == before.version_id
    (finding,) = studio.problems("backbone-refused").values()
    assert before.version_id not in finding.message
    assert DEFAULT_BACKBONE in finding.remedy
    tried = studio.context.store.versions.latest(studio.pid, OTHER)
    assert tried.state == "rejected"
    studio.label(studio.tasks[44])
    assert studio.update().model.version.n_labels == 45, "the old one learns on"
    assert studio.context.store.versions.latest(studio.pid, OTHER) == tried
    studio.label(*studio.tasks[45:55])
    studio.update()
    assert studio.context.store.versions.latest(studio.pid, OTHER).n_labels == 55


@pytest.mark.parametrize(("gone", "after"), [(2, OTHER), (12, DEFAULT_BACKBONE)])
def test_images_that_have_gone_hold_nothing_up_unless_they_are_many(gone, after, make_studio):
    studio = make_studio()
    studio.update()
    for task_id in studio.tasks[-gone:]:
        (studio.files / f"{task_id}.png").unlink()
    studio.settings(backbone=OTHER)
    assert not studio.embed()
    assert len(studio.problems("image-unreadable")) == gone
    assert studio.update().backbone == after
    if after == DEFAULT_BACKBONE:
        (finding,) = studio.problems("backbone-change").values()
        assert "12 could not be read again" in finding.message
    else:
        ranked = {row.task_id: row for row in studio.update().rows}
        assert all(ranked[task_id].utility is None for task_id in studio.tasks[-gone:]), "served last"


def test_a_pinned_version_holds_its_backbone_until_it_is_released(make_studio):
    studio = make_studio()
    first = studio.update().model.version.version_id
    studio.label(studio.tasks[20])
    studio.update()
    assert rollback(studio.context.store, studio.pid).version_id == first
    studio.settings(backbone=OTHER)
    studio.embed()
    assert studio.update().model.version.version_id == first
    (finding,) = studio.problems("backbone-change").values()
    assert first in finding.remedy
    release(studio.context.store, studio.pid)
    assert studio.update().backbone == OTHER
    rollback(studio.context.store, studio.pid, to=first)
    new = studio.arrive(2)
    studio.embed()
    done = studio.update()
    assert done.model.version.version_id == first
    assert set(new) <= {row.task_id for row in done.rows if row.probabilities is not None}
    release(studio.context.store, studio.pid)
    studio.embed()
    assert studio.update().backbone == OTHER


def test_weights_that_are_on_their_way_hold_nobody_up(make_studio, tmp_path, checkpoints, monkeypatch):
    studio = make_studio(tmp_path / "own", deployment={"download_weights": True})
    studio.update()

    def fetch(name, source, folder):
        gate.result(timeout=60)
        folder.mkdir(exist_ok=True)
        return shutil.copy(checkpoints / f"{name}.pth", folder)

    gate = weights.Future()
    monkeypatch.setattr(weights, "fetch", fetch)
    studio.settings(backbone=OTHER)
    assert not studio.embed()
    assert studio.update().backbone == DEFAULT_BACKBONE
    assert studio.problems("backbone-pending")
    with pytest.raises(BackbonePending, match="https://"):
        studio.context.backbone(OTHER)
    gate.set_result(None)
    studio.context._fetches[OTHER].result(timeout=60)
    studio.embed()
    assert studio.update().backbone == OTHER
    assert studio.problems("backbone-pending") == {}
