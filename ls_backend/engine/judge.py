"""A deep version, or somebody else's model, looks at the pool in the background and leaves what it sees in the store.

What matters is looked at first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from ls_backend import logs
from ls_backend.domain import Control
from ls_backend.engine import deep, foreign_model, test_set
from ls_backend.engine.context import Context
from ls_backend.engine.deep import DeepModel
from ls_backend.engine.embed_pool import READERS, report_unreadable
from ls_backend.engine.learners import LEARNERS, Picture
from ls_backend.engine.snapshot import read_picture
from ls_backend.errors import DataError, ImageUnreadable
from ls_backend.store import Inference, Project, TaskRow

log = logs.get(__name__)

CANDIDATES = 2_000
"""Tasks of the pool that are judged at most, besides those of the window in force: minutes on a CPU.

A queue in order needs the best of a fair sample, not the best of all: of 2,000 tasks drawn by lot the best 20 are from
the top hundredth of a pool of any size.
"""

LABELLED = 500
"""Labelled tasks that are looked at as well, the latest ones: what they show counts as covered."""

CHUNK_S = 3.0
"""Seconds after which what was seen is stored, and the rest planned anew."""

RESUME_SHARE = 0.1
"""Share of the candidates that must be unjudged before a pool that was judged is looked at again."""

_BATCH = READERS

Told = Callable[[bool], None]
"""Called every few seconds; True when the order of the labelling queue should be made anew."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What judging did.

    Attributes:
        judged: Tasks looked at.
        failed: Tasks whose image could not be read, or that a foreign model did not answer; this is said as problems.
    """

    judged: int
    failed: int


class _Run(Protocol):
    """One run of a version over tasks: `look` says what it sees, what cannot be read, and how many it has tried."""

    version_id: str

    def look(self, waiting: Sequence[TaskRow]) -> tuple[list[Inference], Mapping[int, DataError], int]: ...
    def end(self) -> None: ...


def due(context: Context, project_id: int) -> list[str]:
    """Return the controls whose version in force should look at the pool: it never did, or many tasks have come."""
    project = context.project(project_id)
    names = []
    for control in deep.subjects(project):
        lost = False
        if control.kind == foreign_model.KIND:
            if foreign_model.rests(context, project):
                continue
            # One that has never judged may know something before any label.
            version_id = foreign_model.version_in_force(context, project) or ""
            lost = foreign_model.is_lost(context, project)
        else:
            version = context.store.deep_versions.in_force(project_id, control.name)
            if version is None or version.classes != control.classes:
                continue
            version_id = version.version_id
        waiting, n_candidates = _waiting(context, project, control, version_id)
        if lost or (waiting and len(waiting) >= math.ceil(RESUME_SHARE * n_candidates)):
            names.append(control.name)
    return names


def judge_pool(context: Context, project_id: int, control_name: str, told: Told) -> Judged:
    """Have the version in force of a control, or the foreign model, look at the tasks it has not judged yet.

    Those to be labelled next come first.

    What it sees replaces, task by task, what an earlier version saw. After the first tasks of a version and after the
    last an update is wanted, so that the labelling queue is in a new order soon and in a good one in the end. It may be
    killed anywhere; the next run goes on with what is left.

    Raises:
        LabelStudioError: Images cannot be had now.
        TrainingError: There is no such control.
    """
    project = context.project(project_id)
    control = deep.subject_of(project, control_name)
    run = _run(context, project, control)
    done = failed = 0
    while run is not None:
        waiting, _ = _waiting(context, project, control, run.version_id)
        is_first = not context.store.inferences.judged_by(project_id, control_name, run.version_id)
        n_seen, n_failed, n_tried = _step(context, project, control, run, waiting)
        if not n_tried:
            run.end()
            break
        done, failed = done + n_seen, failed + n_failed
        woken = is_first or n_tried == len(waiting)
        if woken:
            if isinstance(run, _Deep):
                _look_at_labelled(context, project, control, run)
            context.store.projects.bump(project_id)
        told(woken)
    if done or failed:
        log.info("pool judged", project=project_id, control=control_name, tasks=done, failed=failed)
    return Judged(done, failed)


def judge_tasks(context: Context, project: Project, task_ids: Collection[int]) -> None:
    """Have the versions in force look at some tasks now, because somebody waits for them; seen ones are left alone.

    Raises:
        LabelStudioError: Images cannot be had now.
    """
    if foreign_model.named(project) is None:
        context.drop_predictor(project.id)
    for control in deep.subjects(project):
        unseen = set(task_ids) - set(context.store.inferences.results(project.id, control.name, task_ids))
        run = _run(context, project, control, hurry=True) if unseen else None
        if run is not None:
            _look(context, project, control, run, unseen)
            run.end()


def _run(context: Context, project: Project, control: Control, *, hurry: bool = False) -> _Run | None:
    """Return the version in force, ready to look; None when there is none, or it cannot be had."""
    if control.kind == foreign_model.KIND:
        return foreign_model.judging(context, project, hurry=hurry)
    model = deep.serving(context, project, control)
    return None if model is None else _Deep(context, project, control, model)


def _step(
    context: Context, project: Project, control: Control, run: _Run, waiting: Sequence[TaskRow]
) -> tuple[int, int, int]:
    """Look at some of the tasks and store what was seen; returns how many were judged, failed and tried."""
    if not waiting:
        return 0, 0, 0
    seen, failures, n_tried = run.look(waiting)
    context.store.inferences.put(project.id, control.name, seen)
    report_unreadable(context, project.id, failures)
    n_judged = sum(one.is_answer for one in seen)
    return n_judged, len(failures) + len(seen) - n_judged, n_tried


def _waiting(context: Context, project: Project, control: Control, version_id: str) -> tuple[list[TaskRow], int]:
    """Return the tasks that a version should look at next, in order, and how many candidates there are in all.

    The tasks of the window in force are those that annotators will see; after them the pool by lot. The lot of a task
    never changes, so the sample stays the same while the pool shrinks.
    """
    tasks, settings = context.store.tasks, context.project_settings(project)
    pool = tasks.available(project.id) - test_set.members(context, project)
    window = context.store.windows.in_force(project.id)
    ahead = [task_id for task_id in (window.task_ids if window else ()) if task_id in pool]
    candidates = [*ahead, *test_set.in_turn(pool - set(ahead), settings.seed)[:CANDIDATES]]
    rows = {row.task_id: row for row in tasks.images(project.id, candidates) if row.content_hash is not None}
    judged = context.store.inferences.judged_by(project.id, control.name, version_id)
    waiting = [rows[task_id] for task_id in candidates if task_id in rows and task_id not in judged]
    return waiting, len(rows)


def _look_at_labelled(context: Context, project: Project, control: Control, run: _Run) -> None:
    """Look at the latest labelled tasks, too: the regions of the pool are compared with theirs."""
    locked = test_set.members(context, project)
    labelled = [task.task_id for task in context.store.tasks.labelled(project.id) if task.task_id not in locked]
    unseen = set(labelled[-LABELLED:])
    unseen -= context.store.inferences.judged_by(project.id, control.name, run.version_id)
    _look(context, project, control, run, unseen)


def _look(context: Context, project: Project, control: Control, run: _Run, task_ids: Collection[int]) -> None:
    rows = [row for row in context.store.tasks.images(project.id, task_ids) if row.content_hash is not None]
    n_tried = len(rows)
    while rows and n_tried:
        _, _, n_tried = _step(context, project, control, run, rows)
        rows = rows[n_tried:]


class _Deep:
    """One run of a deep version."""

    def __init__(self, context: Context, project: Project, control: Control, model: DeepModel) -> None:
        self._of = (context, project, control, model)
        self.version_id = model.version.version_id

    def look(self, waiting: Sequence[TaskRow]) -> tuple[list[Inference], Mapping[int, DataError], int]:
        return _chunk(*self._of, waiting)

    def end(self) -> None:
        """Nothing: what cannot be read is said task by task."""


def _chunk(
    context: Context, project: Project, control: Control, model: DeepModel, waiting: Sequence[TaskRow]
) -> tuple[list[Inference], dict[int, ImageUnreadable], int]:
    """Look at tasks for a few seconds; returns what was seen, what could not be read, and how many were tried."""
    learner = LEARNERS[control.kind]
    options = learner.options(context.project_settings(project).training)
    found: list[Inference] = []
    failures: dict[int, ImageUnreadable] = {}
    tried, deadline = 0, time.monotonic() + CHUNK_S
    for some in _read(context, project, waiting):
        tried += len(some)
        failures |= {row.task_id: item for row, item in some if isinstance(item, ImageUnreadable)}
        pictures = [(row.task_id, item) for row, item in some if isinstance(item, Picture)]
        seen = model.judge.judge([picture.pixels for _, picture in pictures], **options) if pictures else []
        for (task_id, picture), one in zip(pictures, seen, strict=True):
            written = learner.write(control, one, picture)
            found.append(
                Inference(
                    task_id=task_id,
                    version_id=model.version.version_id,
                    uncertainty=float(one.uncertainty),
                    presence=one.presence,
                    embedding=one.embedding,
                    scores=written.scores,
                    result=written.result,
                )
            )
        if time.monotonic() > deadline:
            break
    return found, failures, tried


def _read(
    context: Context, project: Project, rows: Sequence[TaskRow]
) -> Iterator[list[tuple[TaskRow, Picture | ImageUnreadable]]]:
    """Read images a batch at a time, several at once."""
    image_px = context.project_settings(project).training.image_px
    with context.downloader(project) as downloader, ThreadPoolExecutor(READERS) as readers:

        def read(row: TaskRow) -> Picture | ImageUnreadable:
            try:
                return read_picture(
                    downloader,
                    row.task_id,
                    row.image or "",
                    image_px=image_px,
                    max_pixels=context.settings.image_max_pixels,
                )
            except ImageUnreadable as error:
                return error

        for start in range(0, len(rows), _BATCH):
            some = rows[start : start + _BATCH]
            yield list(zip(some, readers.map(read, some), strict=True))
