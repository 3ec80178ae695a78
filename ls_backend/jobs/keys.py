"""Names in Redis: one function for each key of ours."""

from __future__ import annotations


def project_of(job_id: str) -> tuple[str, int]:
    """Read the kind and the project from a job id."""
    kind, project_id, *_ = job_id.split("-")
    return kind, int(project_id)


def pause_key(kind: str, project_id: int | str) -> str:
    """Key that exists while failing work of a project rests."""
    return f"lsb:pause:{kind}:{project_id}"


def tries_key(kind: str, project_id: int) -> str:
    """Key that counts runs since the last success."""
    return f"lsb:tries:{kind}:{project_id}"


def wanted_key(kind: str, project_id: int) -> str:
    """Key that counts kicks of a kind whose generations are not in the records."""
    return f"lsb:wanted:{kind}:{project_id}"


def failures_key(project_id: int | str) -> str:
    """Key of the last failure by kind."""
    return f"lsb:failures:{project_id}"


def answer_key(job_id: str) -> str:
    """Key of the outcome of a job that somebody waits for."""
    return f"lsb:answer:{job_id}"


def alive_key(worker_name: str) -> str:
    """Key that exists while a worker lives."""
    return f"lsb:alive:{worker_name}"


def pace_key(project_id: int) -> str:
    """Key of the pace of the last chunk that was embedded."""
    return f"lsb:pace:{project_id}"


def job_key(job_id: str) -> str:
    """Key of a job, as RQ names it."""
    return f"rq:job:{job_id}"
