"""The order in Label Studio: windows published, flipped, and collected without ever breaking an open editor."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ls_backend import logs
from ls_backend.domain import LabelSchema, Prediction, ProjectState, Window
from ls_backend.engine import foreign_model, shown, test_set
from ls_backend.engine.context import Context
from ls_backend.engine.held import ACTIVE, held_now, held_tasks
from ls_backend.engine.sync import forget_tasks
from ls_backend.labelstudio import publish
from ls_backend.store import Project, WindowRow

log = logs.get(__name__)

KEPT_FOR = timedelta(hours=25)
"""Rows an editor may hold stay this long: Label Studio's task lock lives 24 hours."""

GRACE = timedelta(minutes=15)
"""The rest of an old window stays this long for tasks opened by hand in quick view, which take no lock."""

UNCOLLECTED_ROWS = 800
"""Rows of old windows beyond which the grace ends early, oldest window first."""

KEPT_ROWS = 3_800
"""Kept rows beyond which the oldest go early, except what somebody was served last: Label Studio stays quick."""

SINGLE_DELETES = 15
"""Expired rows deleted in one go; each costs Label Studio about 70 ms."""

_WINDOW_NAME = re.compile(r"al-(?:cold|\d+-[0-9a-f]{8}):(\d+)")


class Fenced(Exception):
    """A newer update has published already; this one's work is void."""


@dataclass(frozen=True)
class Head:
    """What the next annotators will be shown: the part of a window that a flip has to change to be worth it."""

    task_ids: tuple[int, ...]
    classes: tuple[tuple[int, ...] | None, ...]


def annotators(context: Context, project_id: int) -> int:
    """Return how many people label a project, at least 1."""
    return max(1, context.store.tasks.annotators(project_id, datetime.now(UTC) - ACTIVE))


def worth_a_flip(
    context: Context, project: Project, state: ProjectState, schema: LabelSchema, rows: list[WindowRow]
) -> bool:
    """Say whether publishing these rows would change what annotators get next.

    Every flip leaves rows behind that editors may hold, so a flip that changes nothing at the top only costs. The
    window in force is compared by what Label Studio still serves of it: a skipped task keeps its place, at the top
    even, until a new window moves it to the end.
    """
    current = context.store.windows.in_force(project.id)
    if current is None or state.model_version != current.version:
        return True
    ranked_by = context.store.versions.get(project.id, current.model_version_id or "")
    if ranked_by is not None and not ranked_by.answers(schema):
        return True  # its pre-annotations may name labels that are no more
    if _decided_since(context, project, current):
        return True  # by hand: who has decided something wants to see it
    path = foreign_model.named(project)
    for name in [control.name for control in schema.controls if control.draws] if path is None else [path]:
        version = context.store.deep_versions.in_force(project.id, name)
        if version is not None and current.flipped_at is not None and version.created_at > current.flipped_at:
            return True  # its regions are those of an earlier version, or none
    served = context.store.tasks.available(project.id, with_skipped=True)
    left = [row for row in context.store.windows.rows(project.id, current.version) if row.task_id in served]
    if len(left) < min(len(rows), len(current.task_ids)) / 2 + 1 and len(rows) > len(left):
        return True
    ahead = 2 * annotators(context, project.id) + 1
    return _head(schema, left, ahead) != _head(schema, rows, ahead)


def _decided_since(context: Context, project: Project, window: Window) -> bool:
    """Say whether somebody has saved settings, fixed a model version or released one since a window was flipped to."""
    said = context.store.revisions.newest(project.id)
    decided = (project.pinned_at, None if said is None else said.at)
    flipped = window.flipped_at
    return flipped is not None and any(moment is not None and moment > flipped for moment in decided)


def _head(schema: LabelSchema, rows: list[WindowRow], ahead: int) -> Head:
    top = rows[:ahead]
    return Head(
        tuple(row.task_id for row in top),
        tuple(None if row.probabilities is None else schema.likeliest(row.probabilities) for row in top),
    )


def adopt(context: Context, project: Project) -> None:
    """Take over what a lost database has left in Label Studio, before the first window of a new one.

    Its windows are collected like any old one, and their numbers are not given again: two windows of one name would
    be one order made of two.
    """
    store, client = context.store, context.client(project)
    now = datetime.now(UTC)
    found = [match for name in client.version_counts(project.id) if (match := _WINDOW_NAME.fullmatch(name))]
    for match in sorted(found, key=lambda match: int(match[1])):
        rows = client.predictions(project.id, match[0])
        task_ids = tuple(dict.fromkeys(row.task_id for row in rows))  # imported in order
        window = Window(match[0], project.id, 0, None, task_ids, 0, flipped_at=now - ACTIVE)
        store.windows.add(window)
        store.windows.replaced(project.id, match[0], now)
        store.projects.raise_sequence(project.id, int(match[1]))
    if found:
        log.info("windows of a lost database adopted", project=project.id, windows=len(found))


def publish_window(
    context: Context,
    project: Project,
    schema: LabelSchema,
    rows: list[WindowRow],
    *,
    generation: int,
    model_version_id: str | None,
    n_labels: int,
) -> Window:
    """Import a window under a new version, then flip Label Studio to it.

    The import is invisible until the flip, and the flip is one atomic change. The fence lets one update a generation
    through, so a doubled run (an orphan, a split network) cannot put an older order over a newer one.

    Raises:
        Fenced: A newer update has published.
        Rejected: Label Studio refused every row.
    """
    store, client = context.store, context.client(project)
    project_id = project.id
    if not store.windows.recent(project_id, 1):
        adopt(context, project)
    version = f"{model_version_id or 'al-cold'}:{store.projects.next_sequence(project_id)}"
    prelabel = context.project_settings(project).prelabel
    hidden = test_set.members(context, project)  # who is shown an answer tends to agree with it
    judged = {row.task_id: row.probabilities for row in rows if prelabel and row.task_id not in hidden}
    results = shown.results(store, project_id, schema, judged)
    # Label Studio serves ascending scores and breaks ties at random: every score differs.
    predictions = [
        Prediction(row.task_id, results.get(row.task_id, ()), (row.rank + 0.5) / len(rows), version) for row in rows
    ]
    published = publish.publish(client, project_id, version, predictions)
    if published.dropped_task_ids:
        log.info("deleted while ranked", project=project_id, tasks=sorted(published.dropped_task_ids))
        forget_tasks(context, project_id, published.dropped_task_ids)
        rows = [row for row in rows if row.task_id not in published.dropped_task_ids]
    window = Window(
        version=version,
        project_id=project_id,
        generation=generation,
        model_version_id=model_version_id,
        task_ids=tuple(row.task_id for row in rows),
        n_labels=n_labels,
    )
    store.windows.add(window, rows)
    if not store.projects.fence(project_id, generation):
        store.windows.replaced(project_id, version, datetime.now(UTC))
        raise Fenced
    store.projects.set(project_id, pending_version=version)
    publish.flip(client, project_id, version)
    store.windows.flipped(project_id, version, datetime.now(UTC))
    return window


def collect(context: Context, project: Project, *, budget_s: float, force: bool = False) -> int:
    """Take old windows out of Label Studio, keeping every row an editor may hold.

    Kept rows are given a version of their own, then the rest of the window goes in a single call: deleting rows one
    by one would cost Label Studio twenty times as much.

    Args:
        context: Store and Label Studio.
        project: Whose windows.
        budget_s: Seconds after which the rest waits for the next time.
        force: Do not wait for the grace to end. What an editor may hold is kept all the same.

    Returns:
        Windows collected.
    """
    store, client = context.store, context.client(project)
    deadline = time.monotonic() + budget_s
    done = 0
    old = store.windows.old(project.id)
    waiting = sum(len(window.task_ids) for window in old)
    for window in old:
        fresh = window.replaced_at is not None and datetime.now(UTC) - window.replaced_at < GRACE
        # The newest one waits for the labels that were submitted while its successor was made.
        if not force and fresh and (waiting <= UNCOLLECTED_ROWS or window is old[-1]):
            break
        if window.version == client.project(project.id).model_version:
            continue  # put back by somebody: annotators are served from it
        keep = held_tasks(context, window) if window.flipped_at else set()
        kept = publish.collect(client, project.id, window.version, keep)
        store.windows.collected(project.id, window.version, kept, datetime.now(UTC))
        waiting -= len(window.task_ids)
        done += 1
        if time.monotonic() > deadline:
            break
    _drop_kept(context, project)
    return done


def _drop_kept(context: Context, project: Project) -> None:
    """Delete some of the kept rows nobody can hold any more, and the least likely ones where too many have piled up.

    Of an answered task an editor needs its row only to change the answer. A task that is not answered may be locked by
    somebody who has it open since that window, however long ago: it goes last.
    """
    now = datetime.now(UTC)
    kept = context.store.windows.kept_rows(project.id, older_than=now)
    due = [row for row in kept if row.kept_at < now - KEPT_FOR]
    surplus = len(kept) - len(due) - KEPT_ROWS
    if surplus > 0:
        held = held_now(context, project.id)
        unanswered = context.store.tasks.available(project.id, with_skipped=True)
        rest = [row for row in kept[len(due) :] if (row.version, row.task_id) not in held]
        due += sorted(rest, key=lambda row: row.task_id in unanswered)[:surplus]  # stable: of equals the oldest first
    for row in due[:SINGLE_DELETES]:
        context.client(project).delete_prediction(row.prediction_id)
        context.store.windows.forget_kept(project.id, [row.prediction_id])


def sweep(context: Context, project: Project) -> None:
    """Find what no record of ours knows: windows of an update that died between import and record, forgotten rows.

    Label Studio is asked for all versions and all kept rows, so this is for now and then.
    """
    client = context.client(project)
    window = context.store.windows.in_force(project.id)
    known = {item.version for item in context.store.windows.old(project.id)}
    known |= {project.pending_version or "", window.version if window else "", client.project(project.id).model_version}
    for version in client.version_counts(project.id):
        if _WINDOW_NAME.fullmatch(version) and version not in known:
            log.info("unknown window deleted", project=project.id, window=version)
            client.delete_version(project.id, version)
    for prediction_id in publish.expired(client, project.id, datetime.now(UTC) - KEPT_FOR)[: 10 * SINGLE_DELETES]:
        client.delete_prediction(prediction_id)
