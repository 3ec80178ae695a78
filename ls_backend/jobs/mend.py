"""What mends a problem: the one place that knows which job does, by the code or the subject of its finding.

Everything else has a remedy that only a person can carry out, and no entry here.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from ls_backend.domain import MENDED_BY_CONNECTING, Finding
from ls_backend.errors import SettingsError
from ls_backend.jobs import work
from ls_backend.jobs.queues import DEPLOYMENT, KIND_QUEUES, Queues
from ls_backend.settings import ProjectSettings
from ls_backend.store import Project, Store

_KINDS = MappingProxyType(
    {**dict.fromkeys(MENDED_BY_CONNECTING, "connect"), "model-version": "reconcile", "image-unreadable": "embed"}
)
_TOLD_WHEN_MENDED = frozenset({"model-version", "sampling-mode", "webhook-missing"})  # as warnings, for an hour
_WORDS = MappingProxyType(
    {
        "connect": "Connect the project again",
        "reconcile": "Compare with Label Studio now",
        "embed": "Read the image again",
    }
)
_OF_JOB = "job "  # subject of what a failed job left
_OF_TRAINING = "training of "  # of a deeper training that failed
_OF_TASK = "task "


@dataclass(frozen=True, slots=True)
class Mender:
    """What mends a problem.

    Attributes:
        kind: Kind of the job that does it.
        words: What it does, for a button.
    """

    kind: str
    words: str


def mender(project: Project | None, finding: Finding) -> Mender | None:
    """Return what mends a problem; None where only a person can.

    Args:
        project: Whose problem it is; None for the deployment's, and for a project that is not connected.
        finding: The problem.
    """
    if finding.subject.startswith(_OF_JOB):
        kind = finding.subject.removeprefix(_OF_JOB)
        return Mender(kind, f"Try {kind} again") if kind in KIND_QUEUES else None
    if finding.subject.startswith(_OF_TRAINING):
        return Mender("train", "Train again") if finding.level == "error" else None
    if finding.level == "warning" and finding.code in _TOLD_WHEN_MENDED:
        return None
    if finding.code == "model-version" and not _manages_queue(project):
        return None  # a comparison leaves it to the owner
    found = _KINDS.get(finding.code)
    return None if found is None else Mender(found, _WORDS[found])


def mend(store: Store, queues: Queues, project_id: int | None, code: str, subject: str) -> bool:
    """Wake what mends an open problem; it disappears when that has found it gone.

    Args:
        store: Records.
        queues: Job queues.
        project_id: Whose problem it is; None for the deployment's.
        code: Of its finding.
        subject: Likewise.

    Returns:
        Whether something was woken that was not on its way already.

    Raises:
        SettingsError: There is no such problem, or only a person can mend it.
        QueueError: Redis does not answer.
    """
    problems = [problem.finding for problem in store.problems.open(project_id)]
    finding = next((item for item in problems if (item.code, item.subject) == (code, subject)), None)
    if finding is None:
        raise SettingsError(
            f"There is no open problem {code!r} of {subject!r}; it may be over.", hint="Look at the problems again."
        )
    found = mender(None if project_id is None else store.projects.get(project_id), finding)
    if found is None:
        raise SettingsError(f"Nothing here mends {code} of {subject}: that takes a person.", hint=finding.remedy)
    if found.kind == "embed" and project_id is not None and subject.startswith(_OF_TASK):
        store.tasks.set_image_error(project_id, int(subject.removeprefix(_OF_TASK)), None)
    return work.retry(store, queues, found.kind, DEPLOYMENT if project_id is None else project_id)


def _manages_queue(project: Project | None) -> bool:
    return project is None or ProjectSettings.model_validate_json(project.settings_json or "{}").manage_queue
