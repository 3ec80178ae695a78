"""One label's way: read what changed, refit, rank, publish, flip, collect."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ls_backend import logs
from ls_backend.domain import LabelSchema, ProjectState
from ls_backend.engine import backbones, publishing, rerank, retrain, test_set
from ls_backend.engine.context import Context
from ls_backend.engine.sync import sync
from ls_backend.engine.view import View, view
from ls_backend.errors import BackendError
from ls_backend.store import Project

log = logs.get(__name__)

COLLECT_S = 1.0
"""Seconds an update spends on old windows after the flip, when nobody waits for it any more."""


@dataclass
class Seconds:
    """How long the steps of an update took, by name."""

    steps: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.steps[name] = self.steps.get(name, 0.0) + time.perf_counter() - started


def update_project(context: Context, project_id: int) -> str | None:
    """Bring one project's queue up to date with its labels.

    Idempotent and fenced: it may be killed anywhere and run again. Must not run twice at once for a project; the job
    layer sees to that.

    Returns:
        Version of the window flipped to; None when the order in force still holds.

    Raises:
        BackendError: Label Studio or the store refused. Nothing is lost: the generation stays unfinished.
    """
    project = context.project(project_id)
    generation = project.wanted_generation
    if project.published_generation >= generation:
        # A run before us died after its fence, or nothing new was asked for: a fence lets every generation in once.
        generation = context.store.projects.bump(project_id)
    seconds = Seconds()
    run = context.store.runs.start(project_id, "update")
    try:
        window, n_labels = _update(context, project_id, generation, seconds)
    except publishing.Fenced:
        context.store.runs.finish(run, "fenced", seconds.steps)
        return None
    except BackendError as error:
        context.store.runs.finish(run, "failed", seconds.steps, error=str(error))
        raise
    context.store.projects.finish(project_id, generation)
    context.store.runs.finish(run, "done", seconds.steps, n_labels=n_labels, window_version=window)
    project = context.project(project_id)
    if project.wanted_generation <= generation:  # the next label must not wait for tidying; reconcile tidies too
        with seconds.step("collect"):
            publishing.collect(context, project, budget_s=COLLECT_S)
    log.info("updated", project=project_id, window=window, labels=n_labels, **_rounded(seconds))
    return window


def _rounded(seconds: Seconds) -> dict[str, float]:
    return {f"{name}_s": round(value, 3) for name, value in seconds.steps.items()}


def _update(context: Context, project_id: int, generation: int, seconds: Seconds) -> tuple[str | None, int]:
    with seconds.step("sync"):
        synced = sync(context, project_id)
    if synced.state is None or synced.schema is None:
        return None, 0
    project, schema = synced.project, synced.schema
    settings = context.project_settings(project)
    with seconds.step("load"):
        test_set.draw(context, project)
        seen = view(context, project, schema, backbones.in_force(context, project))
    if seen is None:
        return None, 0
    with seconds.step("refit"):
        seen, model = _successor(context, project, schema, seen) or (seen, _model(context, project, schema, seen))
    with seconds.step("rank"):
        size = rerank.window_size(context, project, settings)
        ranked = rerank.rerank(context, project, schema, seen, model, size)
        rows = ranked.rows
        log.info("ranked", project=project_id, tasks=len(rows), regime=ranked.regime, why=ranked.regime_reason)
    n_labels = len(seen.labelled.task_ids)
    with seconds.step("publish"):
        theirs = not settings.manage_queue and _is_foreign(context, project, synced.state)
        if not rows or theirs or not publishing.worth_a_flip(context, project, synced.state, schema, rows):
            return None, n_labels
        window = publishing.publish_window(
            context,
            project,
            schema,
            rows,
            generation=generation,
            model_version_id=None if model is None else model.version.version_id,
            n_labels=n_labels,
        )
    return window.version, n_labels


def _is_foreign(context: Context, project: Project, state: ProjectState) -> bool:
    """Say whether the owner has chosen another version than our window; reconcile reports it."""
    window = context.store.windows.in_force(project.id)
    return window is not None and state.model_version != window.version


def _successor(
    context: Context, project: Project, schema: LabelSchema, seen: View
) -> tuple[View, retrain.Model] | None:
    """Let another backbone take over once it has embedded the pool: a model on it has to pass the gate."""
    serving = seen.labelled.backbone
    name = backbones.successor(context, project, serving)
    other = view(context, project, schema, name, read_again=False) if name else None
    if other is None:
        return None
    model = retrain.retrain(context, project, schema, other.labelled, other.standardiser)
    if model is None:
        return None
    if model.version.state != "promoted":
        backbones.refuse(context, project, model.version, serving)
        return None
    backbones.settle(context, project)
    log.info("backbone changed", project=project.id, before=serving, now=name)
    return other, model


def _model(context: Context, project: Project, schema: LabelSchema, seen: View) -> retrain.Model | None:
    """Return the model that ranks: refitted when due, the one in force otherwise, None during cold start."""
    serving = retrain.serving_model(context, project.id)
    if serving is not None and serving.version.backbone != seen.labelled.backbone:
        serving = None  # its backbone is lost, so it cannot judge what another one has embedded
    version = None if serving is None else serving.version
    if retrain.due(context, project, schema, seen.labelled, version):
        model = retrain.retrain(context, project, schema, seen.labelled, seen.standardiser)
        if model is not None and model.version.state == "promoted" and project.pinned_version is None:
            return model
    if serving is None or not serving.version.answers(schema):
        return None
    return serving
