"""From Label Studio's JSON to the words of `domain.py`, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ls_backend.domain import Annotation, ProjectState, Task

Json = Mapping[str, Any]

TASK_FIELDS = "id,data,is_labeled,total_annotations,cancelled_annotations,updated_at"
"""Fields of a task that are read. Label Studio applies the list to nested objects too, so that with `fields=all` the
names below are needed as well, and predictions, which nobody needs here, stay at home."""

ANNOTATION_FIELDS = "annotations,result,was_cancelled,ground_truth,completed_by,created_at"


@dataclass(frozen=True, slots=True)
class MlBackend:
    """An ML backend as connected to a project.

    Attributes:
        state: "CO" connected, "DI" disconnected, "ER" error, "TR" training, "PR" predicting.
        extra_params: As typed by the owner: an object, a string or None.
    """

    backend_id: int
    project_id: int
    url: str
    title: str
    state: str
    is_interactive: bool
    extra_params: Any
    error_message: str | None


@dataclass(frozen=True, slots=True)
class Webhook:
    """An outgoing webhook of a project."""

    webhook_id: int
    url: str
    is_active: bool
    send_payload: bool
    send_for_all_actions: bool
    headers: dict[str, str]
    actions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PredictionRow:
    """A prediction as Label Studio holds it, without its result.

    Attributes:
        updated_at: When it was made or last moved to another version.
    """

    prediction_id: int
    task_id: int
    updated_at: datetime


def moment(text: str) -> datetime:
    """Read a time of the API; always UTC."""
    return datetime.fromisoformat(text).astimezone(UTC)


def moment_text(when: datetime) -> str:
    """Write a time as the filters of the Data Manager want it: UTC, microseconds, "Z"."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def annotation(row: Json, task_id: int) -> Annotation:
    """Read one annotation of a task list or an export."""
    by = row.get("completed_by")
    return Annotation(
        annotation_id=int(row["id"]),
        task_id=task_id,
        result=tuple(region for region in row.get("result") or () if isinstance(region, dict)),
        was_cancelled=bool(row.get("was_cancelled")),
        ground_truth=bool(row.get("ground_truth")),
        completed_by=by.get("id") if isinstance(by, dict) else by,
        created_at=moment(row["created_at"]),
        updated_at=moment(row["updated_at"]),
    )


def annotations_of(row: Json) -> tuple[Annotation, ...]:
    """Read all annotations of a task, oldest first."""
    found = (annotation(item, int(row["id"])) for item in row.get("annotations") or ())
    return tuple(sorted(found, key=lambda item: item.annotation_id))


def task(row: Json, *, with_annotations: bool = False) -> Task:
    """Read one task of a task list."""
    return Task(
        task_id=int(row["id"]),
        data=dict(row["data"]),
        updated_at=moment(row["updated_at"]),
        is_labeled=bool(row["is_labeled"]),
        total_annotations=int(row.get("total_annotations") or 0),
        cancelled_annotations=int(row.get("cancelled_annotations") or 0),
        annotations=annotations_of(row) if with_annotations else None,
    )


def prediction_row(row: Json) -> PredictionRow:
    """Read one prediction of a list."""
    return PredictionRow(int(row["id"]), int(row["task"]), moment(row["updated_at"]))


def project(row: Json) -> ProjectState:
    """Read a project."""
    return ProjectState(
        project_id=int(row["id"]),
        title=str(row.get("title") or ""),
        label_config=str(row.get("label_config") or ""),
        sampling=str(row.get("sampling") or ""),
        model_version=str(row.get("model_version") or ""),
        show_collab_predictions=bool(row.get("show_collab_predictions", True)),
        maximum_annotations=int(row.get("maximum_annotations") or 1),
        skip_queue=str(row.get("skip_queue") or ""),
        task_count=int(row.get("task_number") or 0),
        annotation_count=int(row.get("total_annotations_number") or 0),
        skipped_count=int(row.get("skipped_annotations_number") or 0),
        trains_on_submit=bool(
            row.get("start_training_on_annotation_update") or row.get("min_annotations_to_start_training")
        ),
        predicts_on_load=bool(row.get("evaluate_predictions_automatically")),
    )


def ml_backend(row: Json) -> MlBackend:
    """Read a connected ML backend."""
    return MlBackend(
        backend_id=int(row["id"]),
        project_id=int(row["project"]),
        url=str(row["url"]),
        title=str(row.get("title") or ""),
        state=str(row.get("state") or ""),
        is_interactive=bool(row.get("is_interactive")),
        extra_params=row.get("extra_params"),
        error_message=row.get("error_message"),
    )


def webhook(row: Json) -> Webhook:
    """Read a webhook."""
    return Webhook(
        webhook_id=int(row["id"]),
        url=str(row["url"]),
        is_active=bool(row.get("is_active")),
        send_payload=bool(row.get("send_payload")),
        send_for_all_actions=bool(row.get("send_for_all_actions")),
        headers=dict(row.get("headers") or {}),
        actions=tuple(row.get("actions") or ()),
    )
