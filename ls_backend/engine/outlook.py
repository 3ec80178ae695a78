"""How far long work is, and when it will be over: plain functions of the records, for every door."""

from __future__ import annotations

from dataclasses import dataclass

from ls_backend.store import Counts, Training


@dataclass(frozen=True, slots=True)
class Outlook:
    """How far a piece of work is.

    Attributes:
        what: "embedding" or "training".
        project_id: Whose work it is.
        subject: Control that is trained; "" for embedding.
        phase: What it does now, in a word.
        done: Tasks or epochs behind it; None when nobody knows.
        total: Tasks or epochs in all.
        left_s: Seconds it will take from now; None when nobody can say.
    """

    what: str
    project_id: int
    subject: str
    phase: str
    done: int | None
    total: int | None
    left_s: float | None

    @property
    def share(self) -> float | None:
        """How much of it is done, 0 to 1; None when nobody knows."""
        return min(self.done / self.total, 1.0) if self.total and self.done is not None else None


def of_training(training: Training) -> Outlook:
    """Say how far a deeper training is, from what it last reported."""
    progress = training.progress
    return Outlook(
        what="training",
        project_id=training.project_id,
        subject=training.control,
        phase=str(progress.get("phase") or training.state),
        done=_whole(progress.get("epoch")),
        total=_whole(progress.get("epochs")),
        left_s=progress.get("left_s"),
    )


def of_embedding(project_id: int, counts: Counts, tasks_per_s: float | None) -> Outlook | None:
    """Say how far the reading of a project's images or texts is; None when all are read.

    Args:
        project_id: Whose tasks they are.
        counts: What the records hold of them.
        tasks_per_s: How fast the last chunk went; None when none went lately.
    """
    if not counts.unread:
        return None
    return Outlook(
        what="embedding",
        project_id=project_id,
        subject="",
        phase="reading" if tasks_per_s else "waiting",
        done=counts.tasks - counts.unread,
        total=counts.tasks,
        left_s=round(counts.unread / tasks_per_s, 1) if tasks_per_s else None,
    )


def _whole(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) else None
