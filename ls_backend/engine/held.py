"""What annotators have open now. Label Studio does not tell its locks; they follow from who answered what, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ls_backend.domain import Window
from ls_backend.engine.context import Context

ACTIVE = timedelta(hours=24)
"""An annotator seen within this time may hold a lock: Label Studio's lock lives that long."""

NEWCOMERS = 2
"""People at once who may hold a task although they have not answered one for a day; the rest must reload."""

CLOCKS = timedelta(seconds=1)
"""Allowance for the clocks of two machines, and for the moment between an answer and the next task."""


def held_tasks(context: Context, window: Window) -> set[int]:
    """Return the tasks of a replaced window whose prediction somebody's editor may still show.

    The browser sends the id of the prediction it shows with every submit, skip and update, and Label Studio refuses
    the submit when that row is gone. Label Studio serves strictly from the top and an annotator holds one task at a
    time, so these rows may be open:

    - of tasks answered while the window was in force;
    - of the task each annotator answered first afterwards: it may have been served before;
    - of the tasks annotators hold now, wherever this window had them: a reload, or a step back and forth, shows the
      held task with its prediction of the window that is in force at that moment;
    - of the first few others: somebody who has not answered anything yet holds one of them.
    """
    if window.flipped_at is None or window.replaced_at is None:
        return set()
    since, until = window.flipped_at - CLOCKS, window.replaced_at + CLOCKS
    answers = context.store.tasks.answers_since(window.project_id, since)
    answered = {one.task_id for one in answers if one.made_at <= until or one.changed_at <= until}
    afterwards: dict[int, int] = {}
    for one in answers:
        if one.made_at >= window.replaced_at:
            afterwards.setdefault(one.annotator_id, one.task_id)
    held = {task_id for _, task_id in held_now(context, window.project_id)}
    known = {*answered, *afterwards.values(), *held}
    others = [task_id for task_id in window.task_ids if task_id not in known]
    return known & set(window.task_ids) | set(others[:NEWCOMERS])


def held_now(context: Context, project_id: int) -> set[tuple[str, int]]:
    """Return (version, task id) of what each annotator may hold: what he was served last, and the one behind it.

    The one behind is named, too, in case somebody unknown holds the first.
    """
    return {(window.version, task_id) for window, free in _served(context, project_id, CLOCKS) for task_id in free}


def promised(context: Context, project_id: int) -> list[int]:
    """Return the task each annotator was most likely served after his latest answer, in the order of the queue.

    No allowance is made for clocks: a window that came after the answer has most likely not been served from, and
    labels that were imported a moment before the first window make nobody hold a task of it.
    """
    ours = {task_id for _, free in _served(context, project_id, timedelta(0)) for task_id in free[:1]}
    window = context.store.windows.in_force(project_id)
    ahead = [task_id for task_id in window.task_ids if task_id in ours] if window else []
    return [*ahead, *sorted(ours - set(ahead))]


def _served(context: Context, project_id: int, slack: timedelta) -> list[tuple[Window, list[int]]]:
    """Return for each annotator the window he was served from after his latest answer, and the two tasks in question.

    Label Studio serves the next task within a second of an answer: the first of the window in force that is not
    answered and that nobody else holds. Windows in force within `slack` of the answer are all looked at.
    """
    store = context.store
    latest = store.tasks.latest_answers(project_id, datetime.now(UTC) - ACTIVE)
    served = [
        (annotator_id, window)
        for annotator_id, at in sorted(latest.items(), key=lambda item: item[1])
        for window in store.windows.serving(project_id, at - slack, at + slack)
    ]
    earliest = min((window.flipped_at for _, window in served if window.flipped_at), default=datetime.now(UTC))
    answers = store.tasks.answers_since(project_id, earliest)
    found: list[tuple[Window, list[int]]] = []
    taken: dict[int, int] = {}
    for annotator_id, window in served:
        gone = {one.task_id for one in answers if not one.skipped or one.annotator_id == annotator_id}
        gone |= {task_id for task_id, holder_id in taken.items() if holder_id != annotator_id}
        free = [task_id for task_id in window.task_ids if task_id not in gone][:2]
        taken |= dict.fromkeys(free[:1], annotator_id)
        found.append((window, free))
    return found
