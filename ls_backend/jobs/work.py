"""The work of a deployment as people see it: what runs, waits and failed, and how far the long work is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ls_backend.domain import plain
from ls_backend.engine import outlook
from ls_backend.engine.outlook import Outlook
from ls_backend.errors import QueueError
from ls_backend.jobs.queues import Queues
from ls_backend.jobs.sights import Failure, JobSeen
from ls_backend.store import Store

_TRAININGS_LOOKED_AT = 50


@dataclass(frozen=True, slots=True)
class Work:
    """What a deployment, or a project of it, is at.

    Attributes:
        jobs: Running, waiting and failed ones, in this order.
        outlooks: How far embedding and trainings are.
        queue_error: Why nothing is known of the jobs; None while Redis answers.
    """

    jobs: tuple[JobSeen, ...]
    outlooks: tuple[Outlook, ...]
    queue_error: str | None

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it: "jobs", "progress" with the share that is done, "queue_error"."""
        return {
            "jobs": [plain(item) for item in self.jobs],
            "progress": [{**plain(item), "share": item.share} for item in self.outlooks],
            "queue_error": self.queue_error,
        }


@dataclass(frozen=True, slots=True)
class Standing:
    """The jobs of one project.

    Attributes:
        jobs: Those that run, wait or failed.
        failed: Kinds whose last run failed.
    """

    jobs: tuple[JobSeen, ...]
    failed: tuple[Failure, ...]

    def those(self, state: str) -> list[JobSeen]:
        """Return the jobs in a state: "running" or "queued"."""
        return [job for job in self.jobs if job.state == state]

    @property
    def words(self) -> str:
        """How many there are of each, such as "1 running, 2 failed", or "none"."""
        counted = {
            "running": len(self.those("running")),
            "queued": len(self.those("queued")),
            "failed": len(self.failed),
        }
        return ", ".join(f"{number} {name}" for name, number in counted.items() if number) or "none"


def standings(queues: Queues, project_ids: Iterable[int]) -> dict[int, Standing]:
    """Return the jobs of each project.

    Raises:
        QueueError: Redis does not answer.
    """
    jobs = queues.jobs()
    return {
        number: Standing(tuple(job for job in jobs if job.project_id == number), queues.failed(number))
        for number in project_ids
    }


def look(store: Store, queues: Queues, project_id: int | None = None) -> Work:
    """Say what is going on.

    Args:
        store: Records of the deployment.
        queues: Its job queues; a Redis that is away is told, not raised.
        project_id: Of this project only; None for all.
    """
    jobs: list[JobSeen] = []
    paces: dict[int, float] = {}
    error = None
    projects = [item.id for item in store.projects.active() if project_id in (None, item.id)]
    try:
        jobs = queues.jobs(project_id)
        for number in projects:
            if (pace := queues.pace(number)) and pace.seconds > 0:
                paces[number] = pace.tasks / pace.seconds
    except QueueError as away:
        error = str(away)
    embedding = [outlook.of_embedding(number, store.tasks.counts(number), paces.get(number)) for number in projects]
    training = [outlook.of_training(item) for item in store.trainings.open(project_id)]
    return Work(tuple(jobs), (*(item for item in embedding if item is not None), *training), error)


def connecting(queues: Queues) -> list[JobSeen]:
    """Return the projects that are being connected or could not be; nothing while Redis does not answer."""
    try:
        return [job for job in queues.jobs() if job.kind == "connect"]
    except QueueError:
        return []


def on_its_way(queues: Queues) -> frozenset[tuple[str, int]]:
    """Return kind and project of what runs or waits; nothing while Redis does not answer."""
    try:
        return frozenset((job.kind, job.project_id) for job in queues.jobs() if job.state != "failed")
    except QueueError:
        return frozenset()


def retry(store: Store, queues: Queues, kind: str, project_id: int) -> bool:
    """Try failed work again at once.

    A deeper training that failed is over; it is wanted anew, with the labels there are when it begins.

    Returns:
        Whether something was woken that was not on its way already.

    Raises:
        SettingsError: There is no such kind.
        QueueError: Redis does not answer.
    """
    woken = queues.retry(kind, project_id)
    if kind != "train":
        return woken
    latest = {item.control: item for item in reversed(store.trainings.recent(project_id, _TRAININGS_LOOKED_AT))}
    for item in latest.values():
        if item.state == "failed":
            asked = store.trainings.ask(project_id, item.control, classes=item.classes, n_labels=item.n_labels)
            woken |= queues.kick_train(project_id, asked.training_id)
    return woken
