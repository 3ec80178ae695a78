"""What Label Studio holds, copied to the store.

An event is only a wake-up: labels are always read from Label Studio, so lost, doubled and unordered events cannot
matter. The cheap path reads the tasks whose `updated_at` moved; the full path reads everything and is taken when
the counts disagree.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from ls_backend import logs
from ls_backend.domain import Annotation, Finding, LabelSchema, ProjectState, Task
from ls_backend.engine.context import Context
from ls_backend.errors import ConfigUnsupported, LabelUnknown, Rejected
from ls_backend.labelstudio import label_config
from ls_backend.labelstudio.client import Client
from ls_backend.labelstudio.reason_header import FIELD
from ls_backend.store import LabelledTask, Project

log = logs.get(__name__)

OVERLAP = timedelta(seconds=10)
"""How far behind the cursor the next read starts: a transaction may commit after a later `updated_at` was read."""


@dataclass(frozen=True)
class Synced:
    """What a sync found.

    Attributes:
        project: The record after the sync.
        state: The project in Label Studio; None when it is gone.
        schema: What can be learned; None when nothing can.
        changed: Tasks that were not as they were known.
    """

    project: Project
    state: ProjectState | None
    schema: LabelSchema | None
    changed: int


def sync(context: Context, project_id: int, *, rebuild: bool = False) -> Synced:
    """Bring the store up to date with Label Studio.

    Args:
        context: Settings, store, Label Studio.
        project_id: A connected project.
        rebuild: Read everything and drop what Label Studio no longer holds.

    Raises:
        Unreachable: Label Studio does not answer; nothing was changed.
        Rejected: Label Studio refuses the token.
    """
    project = context.project(project_id)
    client = context.client(project)
    state = _state(context, client, project)
    if state is None:
        return Synced(project, None, None, 0)
    schema = _schema(context, project, state)
    config_changed = state.label_config != (project.label_config or "")
    changed = 0 if schema is None else _read(context, client, project, schema, rebuild=rebuild)
    if schema is not None and config_changed:
        _resolve(context, project_id, schema, context.store.tasks.annotations(project_id, None))
    if config_changed or state.title != project.title:
        # Last, so that a sync that is killed before resolves once more: another config writes its answers otherwise.
        context.store.projects.set(project_id, label_config=state.label_config, title=state.title)
    return Synced(context.project(project_id), state, schema, changed)


def _read(context: Context, client: Client, project: Project, schema: LabelSchema, *, rebuild: bool) -> int:
    # Another image field changes every task, though Label Studio has touched none.
    if rebuild or project.synced_until is None or image_field(project.label_config) != schema.field:
        return _read_all(context, client, project.id, schema)
    return _read_changed(context, client, project.id, schema, project.synced_until)


def _state(context: Context, client: Client, project: Project) -> ProjectState | None:
    try:
        state = client.project(project.id)
    except Rejected as error:
        if error.status != 404:
            raise
        context.store.projects.set(project.id, active=False)
        context.store.problems.report(
            project.id,
            Finding(
                "project-deleted",
                "error",
                "project",
                f"Project {project.id} no longer exists in Label Studio; its work has stopped here.",
                "Nothing, if it was deleted on purpose. Otherwise connect it again.",
            ),
        )
        return None
    if not project.active:
        context.store.projects.set(project.id, active=True)
        context.store.problems.resolve(project.id, "project-deleted")
    return state


def _schema(context: Context, project: Project, state: ProjectState) -> LabelSchema | None:
    problems = context.store.problems
    try:
        schema = label_config.parse(state.label_config)
    except ConfigUnsupported as error:
        problems.report(project.id, Finding(error.code, "error", "labelling interface", str(error), error.hint))
        return None
    problems.resolve(project.id, ConfigUnsupported.code)
    return schema


def image_field(config: str | None) -> str | None:
    """Return the field of the task data that holds the image; None when the config cannot be learned."""
    try:
        return label_config.parse(config or "").field
    except ConfigUnsupported:
        return None


def _read_changed(context: Context, client: Client, project_id: int, schema: LabelSchema, since: datetime) -> int:
    tasks = client.changed_tasks(project_id, since - OVERLAP)
    changed = _news(context, project_id, [task for task in tasks if task.updated_at > since])
    _store(context, project_id, schema, tasks)
    return changed


def _news(context: Context, project_id: int, tasks: list[Task]) -> int:
    """Count the tasks that say something new. Our own reasons and predictions move `updated_at`, too."""
    ids = [task.task_id for task in tasks]
    data = context.store.tasks.data(project_id, ids)
    annotations = context.store.tasks.annotations(project_id, ids)
    waiting = context.store.tasks.available(project_id, with_skipped=True) if tasks else set()

    def is_known(task: Task) -> bool:
        return (
            _without_reason(data.get(task.task_id)) == _without_reason(task.data)
            and _stamps(annotations.get(task.task_id)) == _stamps(task.annotations)
            and (task.task_id in waiting) == (not task.is_labeled and task.total_annotations == 0)
        )

    return sum(not is_known(task) for task in tasks)


def _without_reason(data: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if data is None else {name: value for name, value in data.items() if name != FIELD}


def _stamps(annotations: Iterable[Annotation] | None) -> set[tuple[int, datetime]]:
    return {(one.annotation_id, one.updated_at) for one in annotations or ()}


def _read_all(context: Context, client: Client, project_id: int, schema: LabelSchema) -> int:
    # Tasks first: a task annotated while we read is either newer than the cursor we keep, or its annotation is in the
    # export that follows.
    listed = list(client.tasks(project_id))
    annotations = client.annotations(project_id)
    tasks = [replace(task, annotations=annotations.get(task.task_id, ())) for task in listed]
    stale = context.store.tasks.ids(project_id) - {task.task_id for task in tasks}
    forget_tasks(context, project_id, stale)
    _store(context, project_id, schema, tasks)
    if not tasks:
        context.store.projects.set(project_id, synced_until=datetime.now(UTC) - timedelta(minutes=5))
    log.info("read everything", project=project_id, tasks=len(tasks), removed=len(stale))
    return len(tasks)


def forget_tasks(context: Context, project_id: int, task_ids: Collection[int]) -> None:
    """Delete tasks that Label Studio no longer has, and what was wrong with them."""
    context.store.tasks.delete(project_id, task_ids)
    subjects = {f"task {task_id}" for task_id in task_ids}
    for problem in context.store.problems.open(project_id) if subjects else ():
        if problem.finding.subject in subjects:
            context.store.problems.resolve(project_id, problem.finding.code, problem.finding.subject)


def _store(context: Context, project_id: int, schema: LabelSchema, tasks: list[Task]) -> None:
    if not tasks:
        return
    context.store.tasks.upsert(project_id, tasks, image_field=schema.field)
    _resolve(context, project_id, schema, {task.task_id: task.annotations or () for task in tasks})
    newest = max(task.updated_at for task in tasks)
    context.store.projects.set(project_id, synced_until=newest)


def _resolve(
    context: Context, project_id: int, schema: LabelSchema, annotations: dict[int, tuple[Annotation, ...]]
) -> None:
    """Turn annotations into one label a task, and give the hold-out its share of the new ones."""
    resolved = {task_id: label_config.read_label(schema, items) for task_id, items in annotations.items()}
    context.store.tasks.set_labels(project_id, {key: (item.label, item.problem) for key, item in resolved.items()})
    problems = context.store.problems
    doubted = {item.finding.subject for item in problems.open(project_id) if item.finding.code == LabelUnknown.code}
    for task_id, item in resolved.items():
        subject = f"task {task_id}"
        if item.problem:
            problems.report(
                project_id,
                Finding(
                    LabelUnknown.code,
                    "warning",
                    subject,
                    item.problem,
                    LabelUnknown.hint,
                ),
            )
        elif subject in doubted:
            problems.resolve(project_id, LabelUnknown.code, subject)
    if any(item.label for item in resolved.values()):
        share_holdout(context, project_id, schema)


def share_holdout(context: Context, project_id: int, schema: LabelSchema) -> None:
    """Let every n-th label of a class join the hold-out, for good.

    Membership is decided once, in the order tasks were labelled, and never taken back: a hold-out that loses members
    to training would make every later comparison of two model versions dishonest.
    """
    share = context.project_settings(context.project(project_id)).holdout
    by_class: dict[str, list[LabelledTask]] = {}
    for task in context.store.tasks.labelled(project_id):
        # Combinations of labels are too many to deal each of them fairly: there every n-th task joins.
        by_class.setdefault(task.label if schema.is_one_choice else "", []).append(task)
    members = {task.task_id for tasks in by_class.values() for task in tasks if task.holdout}
    joined: set[int] = set()
    for tasks in by_class.values():
        due = math.floor(share * len(tasks)) - sum(task.holdout for task in tasks)
        turns = [i for i in range(len(tasks)) if math.floor((i + 1) * share) > math.floor(i * share)]
        order = [*reversed(turns), *(i for i in reversed(range(len(tasks))) if i not in set(turns))]
        joined |= set([tasks[i].task_id for i in order if not tasks[i].holdout][: max(due, 0)])
    if joined:
        context.store.tasks.set_holdout(project_id, members | joined)


def counts_agree(context: Context, state: ProjectState) -> bool:
    """Say whether the store holds as many tasks, annotations and skips as Label Studio counts."""
    counts = context.store.tasks.counts(state.project_id)
    return (counts.tasks, counts.annotations, counts.cancelled) == (
        state.task_count,
        state.annotation_count,
        state.skipped_count,
    )


def sync_until_counts_agree(context: Context, project_id: int, *, attempts: int = 3) -> Synced:
    """Sync, and read everything when the counts still disagree after a few cheap reads.

    Annotators go on while we read, so one disagreement proves nothing.
    """
    synced = sync(context, project_id)
    for _ in range(attempts - 1):
        if synced.state is None or synced.schema is None or counts_agree(context, synced.state):
            return synced
        synced = sync(context, project_id)
    if synced.state is not None and synced.schema is not None and not counts_agree(context, synced.state):
        log.info("counts disagree, reading everything", project=project_id)
        synced = sync(context, project_id, rebuild=True)
    return synced
