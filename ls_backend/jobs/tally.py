"""What workers count, kept in one Redis hash: they are other processes, whose memory nobody else can read.

Kinds of jobs, outcomes, buckets and codes are few, so the hash stays small whatever happens. A Redis that lost its data
starts again from zero, as the counters of a process do.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ls_backend.errors import BackendError, LabelStudioError, Rejected, Unreachable

if TYPE_CHECKING:
    from redis.client import Pipeline

KEY = "lsb:tally"
DONE, FAILED, DIED = "done", "failed", "died"
BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 10800.0)
"""Upper bounds of the classes of seconds a job took; what is longer falls into one more class."""

_LABEL_STUDIO = frozenset({LabelStudioError.code, Unreachable.code, Rejected.code})


@dataclass(slots=True)
class Durations:
    """Seconds that jobs of one kind took.

    Attributes:
        counts: Jobs in each class of `BUCKETS_S` and in the one above.
        sum_s: All seconds together.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    sum_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Tally:
    """What the workers of a deployment have counted.

    Attributes:
        jobs: (kind, "done", "failed" or "died") -> runs that ended so; "died" are those whose worker did.
        durations: Kind -> seconds of the runs that ended by themselves.
        refusals: (code, HTTP status or "") -> runs that Label Studio's errors ended.
    """

    jobs: Mapping[tuple[str, str], int]
    durations: Mapping[str, Durations]
    refusals: Mapping[tuple[str, str], int]


def note(
    pipeline: Pipeline, kind: str, outcome: str, seconds: float | None = None, error: Exception | None = None
) -> None:
    """Count a run.

    Args:
        pipeline: What the counts are sent with.
        kind: Kind of the job.
        outcome: "done", "failed" or "died".
        seconds: How long it took; None when nobody can say.
        error: What ended it.
    """
    pipeline.hincrby(KEY, f"jobs|{kind}|{outcome}", 1)
    if seconds is not None:
        pipeline.hincrby(KEY, f"seconds|{kind}|{bisect_left(BUCKETS_S, seconds)}", 1)
        pipeline.hincrbyfloat(KEY, f"sum|{kind}", seconds)
    if isinstance(error, BackendError) and error.code in _LABEL_STUDIO:  # by code: a child only tells its code
        pipeline.hincrby(KEY, f"refusals|{error.code}|{error.context.get('status', '')}", 1)


def read(stored: Mapping[bytes, bytes]) -> Tally:
    """Read the hash; fields of another release are left out."""
    jobs: dict[tuple[str, str], int] = {}
    durations: dict[str, Durations] = {}
    refusals: dict[tuple[str, str], int] = {}
    for name, value in stored.items():
        match name.decode().split("|"):
            case ["jobs", kind, outcome]:
                jobs[kind, outcome] = int(value)
            case ["seconds", kind, bucket] if bucket.isdigit() and int(bucket) <= len(BUCKETS_S):
                durations.setdefault(kind, Durations()).counts[int(bucket)] = int(value)
            case ["sum", kind]:
                durations.setdefault(kind, Durations()).sum_s = float(value)
            case ["refusals", code, status]:
                refusals[code, status] = int(value)
    return Tally(jobs, durations, refusals)
