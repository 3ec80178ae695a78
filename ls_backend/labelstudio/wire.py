"""What Label Studio 1.23 sends to an ML backend, read leniently.

Unknown keys are ignored, since every release adds some. An event is only a wake-up: of a webhook's payload the action
and ids are read, never labels.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator


class Request(BaseModel):
    """Base of what is heard: unknown keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, protected_namespaces=())


def project_id(value: object) -> int:
    """Read a project id from "1.1795385194", "1", 1 or {"id": 1}.

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(value, dict):
        value = value.get("id")
    text = str(value).partition(".")[0]
    if isinstance(value, bool) or not text.isascii() or not text.isdigit():
        raise ValueError(f"project is {str(value)[:60]!r}; expected an id such as 1 or '1.1795385194'")
    return int(text)


def project_origin(value: object) -> str | None:
    """Read the moment a project was created from "1.1795385194": another one means another Label Studio database."""
    origin = value.partition(".")[2] if isinstance(value, str) else ""
    return origin or None


ProjectId = Annotated[int, BeforeValidator(project_id)]


class SetupRequest(Request):
    """POST /setup: who the project is and how it is labelled.

    Attributes:
        origin: Unix time the project was created, as text; None when Label Studio does not say.
        label_config: XML of the labelling interface.
        hostname: Label Studio as it sees itself, often useless from a container.
        access_token: Legacy token of the owner; refused by Label Studio while legacy tokens are off.
        extra_params: As typed by the owner: an object, a string or None.
    """

    project: ProjectId
    origin: str | None = None
    label_config: str = Field(default="", alias="schema")
    hostname: str | None = None
    access_token: SecretStr | None = None
    extra_params: Any = None

    @model_validator(mode="before")
    @classmethod
    def _keep_origin(cls, value: Any) -> Any:  # noqa: ANN401 - whatever was sent
        return {**value, "origin": project_origin(value.get("project"))} if isinstance(value, dict) else value


class PredictTask(Request):
    """A task to predict; `data` is raw, as stored."""

    id: int
    data: dict[str, Any] = Field(default_factory=dict)


class PredictParams(Request):
    """Extras of a prediction; `context` is set for interactive pre-annotation."""

    context: dict[str, Any] | None = None


class PredictRequest(Request):
    """POST /predict: tasks that wait for their predictions, answered in the same order."""

    tasks: tuple[PredictTask, ...]
    project: ProjectId | None = None
    label_config: str | None = None
    params: PredictParams | None = None


class WebhookEvent(Request):
    """POST /webhook: something happened.

    Attributes:
        action: Label Studio's name of it, such as "ANNOTATION_CREATED".
        project: None only when the webhook was told to send no payload.
        task_ids: Tasks it names; a deleted annotation does not say its task.
        annotation_ids: Annotations it names.
        label_config: The project's, as of the event; None when the event does not say, as for the other two.
        model_version: The project's.
        sampling: The project's.
    """

    action: str = Field(min_length=1)
    project: ProjectId | None = None
    task_ids: tuple[int, ...] = ()
    annotation_ids: tuple[int, ...] = ()
    label_config: str | None = None
    model_version: str | None = None
    sampling: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _gather_ids(cls, value: Any) -> Any:  # noqa: ANN401 - whatever was sent
        if not isinstance(value, dict):
            return value
        return {
            "action": value.get("action"),
            "project": value.get("project"),
            "task_ids": _ids(value.get("task"), value.get("tasks")),
            "annotation_ids": _ids(value.get("annotation"), value.get("annotations")),
            **_texts(value.get("project"), "label_config", "model_version", "sampling"),
        }


def _ids(*places: object) -> tuple[int, ...]:
    found: list[int] = []
    for place in places:
        items = place if isinstance(place, list) else [place]
        ids = (item.get("id") if isinstance(item, dict) else item for item in items)
        found += [item for item in ids if isinstance(item, int) and not isinstance(item, bool)]
    return tuple(found)


def _texts(project: object, *names: str) -> dict[str, str]:
    if not isinstance(project, dict):
        return {}
    return {name: project[name] for name in names if isinstance(project.get(name), str)}
