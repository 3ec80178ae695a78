"""Simulated people: they label what Label Studio serves, through the same calls as its page."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from ls_backend.errors import Rejected
from ls_backend.labelstudio.client import Client

THINK_S = 1.0
"""Seconds from seeing a task to submitting it: a quick person."""

HEAD = 40
"""Tasks of Label Studio's own order that are read beside each served one."""

TRIES = 4

T = TypeVar("T")


@dataclass(frozen=True)
class Served:
    """One task Label Studio served, and how it stood in Label Studio's own order at that moment.

    Attributes:
        number: Labels given by everybody, this one included.
        top: Whether it was the first available task of the window in force.
        ordered: Whether Label Studio had a window in force with tasks left.
        shared: Whether somebody else held the task already.
        submitted_at: Unix time at which Label Studio had stored the annotation.
    """

    number: int
    annotator: int
    task_id: int
    label: str
    top: bool
    ordered: bool
    shared: bool
    submitted_at: float


@dataclass
class _Desk:
    """What the annotators know of each other; Label Studio keeps its locks to itself."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    held: dict[int, int] = field(default_factory=dict)
    taken: list[tuple[float, int, int]] = field(default_factory=list)
    served: list[Served] = field(default_factory=list)
    started: int = 0
    errors: list[str] = field(default_factory=list)

    def others_had(self, annotator: int, since: float) -> set[int]:
        """Return the tasks others hold, or held or took at any time since a moment."""
        holding = {task for who, task in self.held.items() if who != annotator}
        return holding | {task for at, who, task in self.taken if at >= since and who != annotator}


def label(
    clients: list[Client],
    project_id: int,
    truth: Mapping[int, str],
    budget: int,
    on_served: Callable[[Served], None],
) -> tuple[list[Served], list[str]]:
    """Let people label until the budget is spent or Label Studio has nothing more.

    Args:
        clients: One signed-in client a person.
        project_id: What they label.
        truth: Task id -> the right label.
        budget: Labels in all.
        on_served: Called after each label, one call at a time.

    Returns:
        What was served, and what went wrong.
    """
    desk = _Desk()
    people = [
        threading.Thread(target=_work, args=(desk, who, client, project_id, truth, budget, on_served), daemon=True)
        for who, client in enumerate(clients)
    ]
    for person in people:
        person.start()
    for person in people:
        while person.is_alive():
            person.join(0.2)  # short joins let Ctrl-C through
    return desk.served, desk.errors


def _work(
    desk: _Desk,
    who: int,
    client: Client,
    project_id: int,
    truth: Mapping[int, str],
    budget: int,
    on_served: Callable[[Served], None],
) -> None:
    try:
        while True:
            with desk.lock:
                if desk.started >= budget:
                    return
                desk.started += 1
            if not _one(desk, who, client, project_id, truth, on_served):
                return
    except Exception as error:  # noqa: BLE001 - told at the end; the others go on
        with desk.lock:
            desk.errors.append(f"annotator {who}: {error}")


def _one(
    desk: _Desk,
    who: int,
    client: Client,
    project_id: int,
    truth: Mapping[int, str],
    on_served: Callable[[Served], None],
) -> bool:
    """Take the next task and label it; False when Label Studio has none."""
    asked_at = time.time()
    with desk.lock:
        elsewhere = desk.others_had(who, asked_at)
    before = client.queue_head(project_id, HEAD)
    task = _persistently(lambda: client.next_task(project_id))
    after = client.queue_head(project_id, HEAD)
    if task is None:
        return False
    task_id = int(task["id"])
    with desk.lock:
        shared = task_id in desk.held.values()
        elsewhere |= desk.others_had(who, asked_at)
        desk.held[who] = task_id
    top = any(_first_available(head, elsewhere - {task_id}) == task_id for head in (before, after))
    time.sleep(THINK_S)
    shown = next(iter(task.get("predictions") or ()), None)
    answer = truth[task_id]
    result = [{"from_name": "digit", "to_name": "image", "type": "choices", "value": {"choices": [answer]}}]
    parent = shown["id"] if shown else None
    _persistently(lambda: client.submit(task_id, result, parent_prediction=parent, lead_time=THINK_S))
    with desk.lock:
        now = time.time()
        desk.held.pop(who, None)
        desk.taken.append((now, who, task_id))
        one = Served(len(desk.served) + 1, who, task_id, answer, top, bool(before or after), shared, now)
        desk.served.append(one)
        on_served(one)
    return True


def _persistently(press: Callable[[], T]) -> T:
    """Press a button again when Label Studio fails, as a person does: on SQLite it does so when it is very busy."""
    for _ in range(TRIES - 1):
        try:
            return press()
        except Rejected as error:
            if error.status < 500:
                raise
            time.sleep(THINK_S)
    return press()


def _first_available(head: list[tuple[int, float]], elsewhere: set[int]) -> int | None:
    return next((task_id for task_id, _ in head if task_id not in elsewhere), None)
