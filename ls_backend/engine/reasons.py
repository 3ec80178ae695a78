"""Why a task is next, written into its task data, where the labelling interface can show it to annotators.

Label Studio has no other place that annotators see and that does not end up in their annotations. So this is for those
who ask for it (the setting `reasons`), for the tasks of the window in force only, after the flip, and it is taken back:
from tasks that are labelled, from tasks that left the window, from all when the setting is turned off.

Label Studio replaces the data of a task as a whole. What is written is what was read a moment before, with our field
changed; who changes the same task by the API within these milliseconds loses his change. It also saves the task's other
columns as it has read them: a submit within these milliseconds may leave the task marked as unlabelled until its next
annotation. So a task that an annotator most likely has open is left alone; what remains is somebody nobody knows of
yet, who submits in that very moment.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from ls_backend import logs
from ls_backend.engine.context import Context
from ls_backend.engine.held import promised
from ls_backend.errors import Rejected
from ls_backend.labelstudio import reason_header
from ls_backend.labelstudio.reason_header import FIELD
from ls_backend.settings import ProjectSettings
from ls_backend.store import Project, Store

log = logs.get(__name__)

KIND = "reasons"
"""Kind of insight that says how far the writing is."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What annotators see of the reasons.

    Attributes:
        on: The setting.
        header: Whether the labelling interface shows the field.
        tasks: Tasks that have a reason in their data, as last read.
        to_do: Tasks whose data does not say what it should.
    """

    on: bool
    header: bool
    tasks: int
    to_do: int


@dataclass(frozen=True, slots=True)
class _Aim:
    """What the task data should say.

    Attributes:
        window: Version of the window whose reasons are wanted; None for no reasons at all.
        generation: Update that decided it: labels end a reason without another window.
    """

    window: str | None
    generation: int

    def with_state(self, state: Literal["begun", "done", "removed"]) -> dict[str, object]:
        """Return what is kept of it: "removed" means that nothing is to be done until another window or update."""
        return {"window": self.window, "generation": self.generation, "state": state}


def due(store: Store, project_id: int) -> bool:
    """Say whether reasons are to be written or removed."""
    project = store.projects.get(project_id)
    if project is None or not project.active:
        return False
    found = store.insights.get(project_id, KIND)
    aim = _aim(project)
    if found is None:
        return aim.window is not None  # where reasons were never wanted, nothing is looked at
    return found.content not in (aim.with_state("done"), aim.with_state("removed"))


def look_again(context: Context, project: Project) -> None:
    """Compare the task data as last read with what they should say; for now and then.

    A read that began before a reason was written may be stored after it, and then nobody knows of that reason until the
    task is read again. And what somebody had open may be free now.
    """
    found = context.store.insights.get(project.id, KIND)
    aim = _aim(project)
    if found is not None and found.content == aim.with_state("done") and _to_do(context, project, aim):
        context.store.insights.put(project.id, KIND, aim.with_state("begun"))


def write(context: Context, project_id: int, *, budget_s: float) -> int:
    """Bring the task data up to date with the window in force, next task first; the reasons that are over go last.

    May be killed anywhere and run again. Stops early when another window is in force, and when `remove` runs.

    Args:
        context: Records and Label Studio.
        project_id: A connected project.
        budget_s: Seconds after which the rest waits for the next run.

    Returns:
        Tasks written.

    Raises:
        Unreachable: Label Studio does not answer.
        Rejected: Label Studio refuses the token.
    """
    deadline = time.monotonic() + budget_s
    store, project = context.store, context.project(project_id)
    aim = _aim(project)
    begun = aim.with_state("begun")
    store.insights.put(project_id, KIND, begun)  # before the first task, or nobody would know what to take back
    written = 0
    for place, (task_id, text) in enumerate(_to_do(context, project, aim)):
        found = store.insights.get(project_id, KIND)
        moved_on = found is None or found.content != begun or _aim(context.project(project_id)).window != aim.window
        if moved_on or (place > 0 and time.monotonic() > deadline):  # one at least, or there would be no end
            return written
        written += _say(context, project, task_id, text)
    store.insights.put(project_id, KIND, aim.with_state("done"))
    if written:
        log.info("reasons written", project=project_id, window=aim.window, tasks=written)
    return written


def remove(context: Context, project_id: int) -> int:
    """Take every reason out of the task data, for an export; while the setting is on, the next update writes them anew.

    Returns:
        Tasks changed.

    Raises:
        Unreachable: Label Studio does not answer.
        Rejected: Label Studio refuses the token.
    """
    project = context.project(project_id)
    context.store.insights.put(project_id, KIND, _aim(project).with_state("removed"))  # ends a run that is writing
    removed = 0
    tried: set[int] = set()
    while left := context.store.tasks.texts(project_id, FIELD).keys() - tried:
        tried |= left
        removed += sum(_say(context, project, task_id, None) for task_id in sorted(left))
    log.info("reasons removed", project=project_id, tasks=removed)
    return removed


def shown(context: Context, project_id: int) -> Shown:
    """Look at what annotators see of the reasons.

    Raises:
        SettingsError: The project is not connected.
        Unreachable: Label Studio does not answer.
    """
    project = context.project(project_id)
    config = context.client(project).project(project_id).label_config
    return Shown(
        on=context.project_settings(project).reasons,
        header=reason_header.shows_reason(config),
        tasks=len(context.store.tasks.texts(project_id, FIELD)),
        to_do=len(_to_do(context, project, _aim(project))),
    )


def show_header(context: Context, project_id: int, *, wanted: bool) -> bool:
    """Put the line that shows the reason into the labelling interface, or take it out; the rest stays as it is written.

    Returns:
        Whether the labelling interface was changed.

    Raises:
        ConfigUnsupported: The labelling interface cannot be read.
        Rejected: Label Studio refuses the change.
    """
    client = context.client(context.project(project_id))
    config = client.project(project_id).label_config
    change = reason_header.with_header if wanted else reason_header.without_header
    changed = change(config)
    if changed != config:
        client.update_project(project_id, label_config=changed)
    return changed != config


def _aim(project: Project) -> _Aim:
    settings = ProjectSettings.model_validate_json(project.settings_json or "{}")
    return _Aim(project.window_version, project.done_generation) if settings.reasons else _Aim(None, 0)


def _to_do(context: Context, project: Project, aim: _Aim) -> list[tuple[int, str | None]]:
    """Return the tasks to change and what they are to say, None for nothing, the next task first."""
    store = context.store
    rows = [] if aim.window is None else store.windows.rows(project.id, aim.window)
    waiting = store.tasks.available(project.id, with_skipped=True)
    wanted = {row.task_id: row.reason for row in rows if row.task_id in waiting}
    texts = store.tasks.texts(project.id, FIELD)
    is_open = waiting & set(promised(context, project.id))
    changes = [(task_id, reason) for task_id, reason in wanted.items() if texts.get(task_id) != reason]
    over: list[tuple[int, str | None]] = [(task_id, None) for task_id in texts if task_id not in wanted]
    return [(task_id, text) for task_id, text in [*changes, *over] if task_id not in is_open]


def _say(context: Context, project: Project, task_id: int, text: str | None) -> bool:
    """Change our field of one task, everything else as it is this moment; answers whether anything was changed."""
    client = context.client(project)
    task = client.some_tasks(project.id, [task_id]).get(task_id)
    if task is None or (text is not None and (task.is_labeled or task.total_annotations > 0)):
        return False  # deleted or labelled, and not read yet
    data = {name: value for name, value in task.data.items() if name != FIELD}
    if text is not None:
        data[FIELD] = text
    if data != task.data:
        try:
            client.update_task(task_id, data)
        except Rejected as error:
            if error.status != 404:
                raise
            return False
    context.store.tasks.set_text(project.id, task_id, FIELD, text)
    return data != task.data
