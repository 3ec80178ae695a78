"""Publishing a window: import, verify, flip; and collecting what an old window leaves behind.

A prediction that an open editor shows must not vanish: Label Studio refuses the annotation that names it. So of an old
window the rows that may be open are moved to a version of their own, which keeps their ids, and the rest goes in one
call. Deleting a version costs about 4 ms a row, a retag or a single deletion 65 ms.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import httpx

from ls_backend.domain import Prediction
from ls_backend.errors import LabelStudioError, Rejected
from ls_backend.labelstudio.client import Client

KEPT_VERSION = "al-kept"
"""Version of the predictions of old windows that an open editor may still show."""


@dataclass(frozen=True, slots=True)
class Published:
    """What Label Studio holds of a window after `publish`.

    Attributes:
        created: Rows it holds.
        dropped_task_ids: Tasks it does not hold a row for: deleted meanwhile, or refused in silence.
    """

    created: int
    dropped_task_ids: tuple[int, ...]


def publish(client: Client, pid: int, version: str, rows: Sequence[Prediction]) -> Published:
    """Import a window without putting it in force, and make sure of what arrived.

    Label Studio refuses a whole import for one deleted task and, without its newer import, drops invalid rows in
    silence. The first is repeated without the tasks that are gone; for both, what is missing is reported.

    Args:
        client: Label Studio.
        pid: Project.
        version: A version that no prediction has yet.
        rows: One for each task, all of `version`, with scores in (0, 1).

    Raises:
        LabelStudioError: If nothing of the window arrived.
        Rejected: If Label Studio refuses for another reason than deleted tasks.
    """
    _check(version, rows)
    wanted = [row.task_id for row in rows]
    try:
        created = client.import_predictions(pid, rows)
    except Rejected as error:
        if error.status != httpx.codes.BAD_REQUEST:
            raise
        alive = client.task_ids(pid)
        rows = [row for row in rows if row.task_id in alive]
        if len(rows) == len(wanted):
            raise
        client.delete_version(pid, version)  # an import refused half-way keeps what came before
        created = client.import_predictions(pid, rows) if rows else 0
    held = {row.task_id for row in rows}
    if created != len(rows):
        held = set(client.prediction_ids(pid, version))
    if not held:
        raise LabelStudioError(
            f"Label Studio kept none of the {len(wanted)} predictions of version {version} for project {pid}.",
            hint="Check that the project still has tasks and that its label config has the predicted labels.",
            project=pid,
        )
    return Published(len(held), tuple(task_id for task_id in wanted if task_id not in held))


def flip(client: Client, pid: int, version: str) -> None:
    """Put a published version in force: from the next task on Label Studio serves its order.

    Raises:
        Rejected: With status 400 if no prediction of the version exists.
    """
    client.update_project(pid, model_version=version)


def collect(client: Client, pid: int, version: str, keep: Collection[int]) -> dict[int, int]:
    """Remove an old window except the rows of tasks an editor may still show; safe to repeat.

    Returns:
        Prediction id by task id of the rows kept by this call; those of a call that was broken off are found by
        `expired` like all others.

    Raises:
        LabelStudioError: If the version is in force.
    """
    kept: dict[int, int] = {}
    if keep:
        held = client.prediction_ids_of(pid, version, keep)
        for task_id in sorted(held):
            try:
                client.retag_prediction(held[task_id], KEPT_VERSION)
            except Rejected as error:
                if error.status != httpx.codes.NOT_FOUND:
                    raise
                continue  # its task has been deleted
            kept[task_id] = held[task_id]
    client.delete_version(pid, version)
    return kept


def expired(client: Client, pid: int, before: datetime) -> list[int]:
    """Return the ids of kept predictions that were kept before a moment: no editor holds them after a lock's life.

    Label Studio itself remembers when each was kept, so that nothing is forgotten when a `collect` is broken off.
    """
    return [row.prediction_id for row in client.predictions(pid, KEPT_VERSION) if row.updated_at < before]


def _check(version: str, rows: Sequence[Prediction]) -> None:
    for row in rows:
        if row.model_version != version or not (math.isfinite(row.score) and 0 < row.score < 1):
            raise ValueError(
                f"Row of task {row.task_id} has version {row.model_version} and score {row.score}; "
                f"expected version {version} and a score in (0, 1)."
            )
