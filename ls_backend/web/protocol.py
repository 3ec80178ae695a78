"""Label Studio's ML-backend protocol, as Community 1.23 speaks it.

Time limits on Label Studio's side: /health 1 s, /setup 3 s, /webhook 1 s inside the annotator's submit, /predict 100 s.
So nothing here computes: events are noted and the worker is woken, predictions come from the store, and only tasks the
store does not know are asked of the worker, with a deadline.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flask import Blueprint, Response, request
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ValidationError

from ls_backend import logs, metrics
from ls_backend.domain import ORDERED_SAMPLING, Finding, LabelSchema, ModelVersion
from ls_backend.engine import configure, shown
from ls_backend.errors import BackendError, ConfigUnsupported, DataError, QueueError, SettingsError
from ls_backend.jobs.queues import Queues
from ls_backend.labelstudio import label_config, wire
from ls_backend.labelstudio.client import SECRET_HEADER
from ls_backend.labelstudio.interactive import pointed_at
from ls_backend.settings import Settings
from ls_backend.store import Project, Store
from ls_backend.web import measure
from ls_backend.web.diagnosis import Diagnosis

log = logs.get(__name__)

Model = TypeVar("Model", bound=BaseModel)

LABEL_EVENTS = frozenset(
    {
        "ANNOTATION_CREATED",
        "ANNOTATIONS_CREATED",
        "ANNOTATION_UPDATED",
        "ANNOTATIONS_DELETED",
        "START_TRAINING",
        "TASKS_CREATED",
        "TASKS_DELETED",
    }
)
WAKE_S = 0.25
"""Seconds a request waits for Redis: an event may need two wake-ups, and Label Studio waits one second in all."""

KNOWN_EVENTS = LABEL_EVENTS | {"PROJECT_UPDATED"}


@dataclass(frozen=True)
class Backend:
    """What a request handler may use: no torch, no call to Label Studio."""

    settings: Settings
    store: Store
    queues: Queues

    wakers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4, "waker"))

    @classmethod
    def of(cls, settings: Settings) -> Backend:
        """Return the backend of a deployment, its data folder made and its database migrated."""
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        return cls(settings=settings, store=Store(settings.sql_url), queues=Queues.of(settings))

    def wake(self, project_id: int) -> bool:
        """Ask the worker to bring a project up to date; a lost wake-up is found by the supervisor."""
        return self._wake(self.queues.kick, project_id)

    def compare(self, project_id: int) -> bool:
        """Ask the worker to compare a project with Label Studio; a lost wake-up is made up for by the next round."""
        return self._wake(self.queues.kick_reconcile, project_id)

    def wake_all(self) -> None:
        """After a start: compare every project with Label Studio, for events may have been missed."""
        for project in self.store.projects.active():
            if not self.compare(project.id):
                return

    def _wake(self, kick: Callable[[int], bool], project_id: int) -> bool:
        """Kick, but wait for a Redis that hangs no longer than an annotator's submit allows."""
        kicking = self.wakers.submit(kick, project_id)
        try:
            kicking.result(WAKE_S)
        except (QueueError, TimeoutError) as error:
            kicking.cancel()
            reason = str(error) or f"Redis gave no answer within {WAKE_S:g} s"
            log.warning("could not wake the worker", project=project_id, reason=reason)
            return False
        return True

    def live_version(self, project_id: int) -> tuple[str, ModelVersion | None]:
        """Return the version string of live answers, which must never equal a published window's, and the model."""
        version = self.store.versions.in_force(project_id)
        return f"live:{version.version_id if version else 'al-cold'}", version


def blueprint(backend: Backend) -> Blueprint:
    """Return the protocol's routes."""
    door = Blueprint("protocol", __name__)

    @door.get("/")
    @door.get("/health")
    def health() -> dict[str, Any]:
        return {"status": "UP", "model_class": "ls_backend"}

    @door.post("/setup")
    def setup() -> dict[str, Any]:
        return answer_setup(backend, _body(wire.SetupRequest))

    @door.post("/predict")
    def predict() -> dict[str, Any]:
        return answer_predict(backend, _body(wire.PredictRequest))

    @door.post("/webhook")
    def webhook() -> tuple[dict[str, Any], int]:
        started = time.perf_counter()
        event = _body(wire.WebhookEvent)
        answer = answer_webhook(backend, event, request.headers.get(SECRET_HEADER, ""))
        # A name a stranger made up must not become a time series of its own.
        metrics.WEBHOOKS.labels(event.action if event.action in KNOWN_EVENTS else "other").inc()
        metrics.WEBHOOK_SECONDS.observe(time.perf_counter() - started)
        return answer

    @door.get("/versions")
    def versions() -> dict[str, list[str]]:
        names = [item.version_id for project in backend.store.projects.active() for item in _promoted(backend, project)]
        return {"versions": names}

    @door.get("/metrics")
    def prometheus() -> Response:
        return Response(measure.answer(backend.store, backend.queues), content_type=CONTENT_TYPE_LATEST)

    # Calls of older Label Studio versions. Training starts by itself, so there is nothing to do and nothing wrong.
    @door.post("/train")
    def train() -> tuple[dict[str, Any], int]:
        return {"status": "ok", "message": "Training starts by itself after each label."}, 201

    @door.post("/validate")
    @door.post("/job_status")
    @door.post("/delete")
    @door.post("/duplicate_model")
    def older() -> dict[str, Any]:
        return {"status": "ok"}

    return door


def _promoted(backend: Backend, project: Project) -> list[ModelVersion]:
    return [item for item in backend.store.versions.list(project.id) if item.state == "promoted"]


def _body(model: type[Model]) -> Model:
    """Read the request's JSON.

    Raises:
        DataError: It is not JSON, or not of the protocol's shape.
    """
    sent = request.get_json(force=True, silent=True)
    if not isinstance(sent, dict):
        raise DataError(
            f"The body of {request.path} is not a JSON object ({request.content_length or 0} bytes).",
            hint="Only Label Studio should call this address.",
        )
    return understood(model, sent, request.path)


def understood(model: type[Model], sent: dict[str, Any], path: str) -> Model:
    """Read a body as a request of the protocol.

    Args:
        model: What is expected.
        sent: JSON as it came.
        path: Where it came, for the message.

    Raises:
        DataError: It is not of that shape.
    """
    try:
        return model.model_validate(sent)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(
            f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}.",
            hint="Only Label Studio should call this address.",
        ) from error


def answer_setup(backend: Backend, sent: wire.SetupRequest) -> dict[str, Any]:
    """Take note of a project. Called at every load of the Data Manager: cheap, idempotent, starts nothing twice.

    Raises:
        SettingsError: Extra params are wrong, or there is no token.
        ConfigUnsupported: There is nothing to learn.
    """
    if backend.settings.label_studio_api_key is None and not sent.access_token:
        raise SettingsError(
            "LABEL_STUDIO_API_KEY is not set and Label Studio sent no token.",
            hint="Set LABEL_STUDIO_API_KEY for ls_backend and restart it.",
        )
    store, project_id = backend.store, sent.project
    before = store.projects.get(project_id)
    project = store.projects.ensure(
        project_id,
        origin=sent.origin,
        hostname=sent.hostname or None,
        access_token=sent.access_token.get_secret_value() if sent.access_token else None,
    )
    schema = _learnable(backend, project_id, sent.label_config)
    is_new = before is None or before.origin != project.origin or not before.active
    changed = is_new or project.label_config != sent.label_config
    if changed:
        store.projects.bump(project_id)
    if _hear(backend, project_id, schema, sent.extra_params) or changed:
        backend.wake(project_id)
    return {"model_version": backend.live_version(project_id)[0]}


def _learnable(backend: Backend, project_id: int, config: str) -> LabelSchema:
    """Read the label config; one that has nothing to learn is a problem until it is mended."""
    problems = backend.store.problems
    try:
        schema = label_config.parse(config)
    except ConfigUnsupported as error:
        problems.report(project_id, Finding(error.code, "error", "labelling interface", str(error), error.hint))
        raise
    problems.resolve(project_id, ConfigUnsupported.code)
    return schema


def _hear(backend: Backend, project_id: int, schema: LabelSchema, extra_params: object) -> bool:
    """Take the extra params for settings, if they say something new; answers whether that made a revision.

    What is wrong is a problem by name until it is mended. Where nothing new was said, Label Studio is not to blame.
    """
    store, problems = backend.store, backend.store.problems
    try:
        is_news = configure.hear(store, backend.settings, project_id, extra_params, schema)
        if not is_news:
            configure.check(backend.settings, schema, configure.in_force(store, project_id)[1])
    except BackendError as error:
        problems.report(project_id, Finding(SettingsError.code, "error", "settings", str(error), error.hint))
        if configure.repeats(store, project_id, extra_params):
            return False
        raise SettingsError(f"Extra params refused: {error}") from error
    problems.resolve(project_id, SettingsError.code, "settings")
    return is_news


def answer_webhook(backend: Backend, event: wire.WebhookEvent, secret: str | None) -> tuple[dict[str, Any], int]:
    """Note an event and wake the worker. Its content is never taken as data: labels are read from Label Studio.

    Args:
        backend: Store and queues.
        event: What happened.
        secret: The secret header as it came, "" when there was none; None where the door cannot see headers, which
            lets anybody wake the worker, and nothing else.
    """
    if event.project is None:
        return {"status": "ignored", "message": "the event names no project; send_payload may be off"}, 200
    project = backend.store.projects.get(event.project)
    if project is None:
        return {"status": "ignored", "message": f"project {event.project} is not connected"}, 200
    expected = project.webhook_secret if secret is not None else None
    if expected and not hmac.compare_digest((secret or "").encode(), expected.encode()):
        backend.store.problems.report(
            project.id,
            Finding(
                "webhook-secret",
                "warning",
                "webhook",
                f"A webhook call came with {'a wrong' if secret else 'no'} secret header and was refused.",
                f"Run `ls-backend connect --project {project.id}` if it was Label Studio that called.",
            ),
        )
        return {"status": "refused", "message": "wrong or missing secret header"}, 401
    if event.action == "PROJECT_UPDATED":
        return _project_updated(backend, project, event)
    if event.action not in LABEL_EVENTS:
        return {"status": "ignored", "message": f"nothing to do for {event.action}"}, 200
    generation = backend.store.projects.note_event(
        project.id, event.action, next(iter(event.task_ids), None), next(iter(event.annotation_ids), None)
    )
    if event.action in {"TASKS_DELETED", "ANNOTATIONS_DELETED"}:
        backend.compare(project.id)
    backend.wake(project.id)
    return {"status": "ok", "job": f"update-{project.id}-{generation}"}, 201


def _project_updated(backend: Backend, project: Project, event: wire.WebhookEvent) -> tuple[dict[str, Any], int]:
    """Tell our own flips, which Label Studio reports back while we still wait for it, from somebody else's change."""
    ours = {project.window_version, project.pending_version} - {None}
    if event.label_config is not None and event.label_config != project.label_config:
        backend.store.projects.bump(project.id)
        backend.wake(project.id)
    if event.model_version not in ours or event.sampling != ORDERED_SAMPLING:
        backend.compare(project.id)
    return {"status": "ok"}, 200


def answer_predict(backend: Backend, sent: wire.PredictRequest) -> dict[str, Any]:
    """Answer one entry a task, in order; a task without an answer gets an empty result that says why."""
    project = backend.store.projects.get(sent.project) if sent.project is not None else None
    task_ids = [task.id for task in sent.tasks]
    if project is None:
        diagnosis = {"no_prediction": "the project is not connected to this backend"}
        return {"results": [_empty("live:al-cold", diagnosis) for _ in sent.tasks]}
    name, version = backend.live_version(project.id)
    diagnosed = Diagnosis(backend.store, backend.queues, project, version, task_ids)
    if version is None:
        metrics.PREDICTIONS.labels("none").inc(len(sent.tasks))
        why = "there is no model yet"
        return {"results": [_empty(name, diagnosed.of(task_id, why)) for task_id in task_ids]}
    schema = label_config.parse(sent.label_config or project.label_config or "")
    known = _answers(backend, project, schema, version, task_ids)
    if not version.answers(schema):
        why = "the labelling interface has changed; a new model is on its way"
        return {"results": [_empty(name, diagnosed.of(task_id, why)) for task_id in task_ids]}
    results = shown.results(backend.store, project.id, schema, known)
    context = sent.params.context if sent.params else None
    why = "no answer in time, or the image cannot be read; see the problems of the project"
    return {
        "results": [
            {
                "result": list(pointed_at(schema, results[task_id], context)),
                "score": round(schema.confidence(known[task_id]), 6),
                "model_version": name,
                "diagnosis": diagnosed.of(task_id),
            }
            if task_id in known
            else _empty(name, diagnosed.of(task_id, why))
            for task_id in task_ids
        ]
    }


def _answers(
    backend: Backend, project: Project, schema: LabelSchema, version: ModelVersion, task_ids: list[int]
) -> dict[int, tuple[float, ...]]:
    """Return task id -> probabilities, asking the worker for those the store does not hold."""
    store, project_id = backend.store.predictions, project.id
    known = store.get(project_id, version.version_id, task_ids)
    unseen = shown.unseen(backend.store, project_id, schema, task_ids)
    unknown = [task_id for task_id in task_ids if task_id not in known or task_id in unseen]
    metrics.PREDICTIONS.labels("store").inc(len(task_ids) - len(unknown))
    if unknown:
        try:
            backend.queues.predict(project_id, unknown, deadline_s=backend.settings.predict_deadline_s)
        except QueueError as error:
            log.warning("could not ask the worker", project=project_id, reason=str(error))
        found = store.get(project_id, version.version_id, unknown)
        metrics.PREDICTIONS.labels("worker").inc(len(found))
        known |= found
    return known


def _empty(name: str, diagnosis: Mapping[str, str]) -> dict[str, Any]:
    return {"result": [], "score": 0.0, "model_version": name, "diagnosis": dict(diagnosis)}
