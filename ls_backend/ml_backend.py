"""This backend as a model class, for people who run label-studio-ml's own server.

    from label_studio_ml.api import init_app
    from ls_backend.ml_backend import ActiveLearningBackend

    app = init_app(model_class=ActiveLearningBackend, model_dir="/data/label-studio-ml")

It answers from the same store and wakes the same workers as our own server, so `ls-backend worker` must run with the
same settings. Run one process of many threads: that server keeps its model in a global variable, and a process that
has not seen /setup refuses /predict. Its webhook starts a process for each event and hides the headers, so our secret
is not checked; an event is a wake-up only. What its routes leave out (`/versions` by GET, metrics, the JSON API) is
missing.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from flask import Response, after_this_request, has_request_context, jsonify, request
from label_studio_ml.model import LabelStudioMLBase

from ls_backend.errors import BackendError
from ls_backend.labelstudio import label_config, wire
from ls_backend.settings import Settings
from ls_backend.web import protocol
from ls_backend.web.app import refusal

if multiprocessing.parent_process() is None:
    # /setup has three seconds, and loading the SDK takes some of them; processes of single webhooks do without it.
    label_config.warm()


class ActiveLearningBackend(LabelStudioMLBase):  # type: ignore[misc]  # untyped
    """What label-studio-ml's server constructs for /setup and asks for predictions and events.

    That server does not tell its model which project it is set up for. The model is constructed inside the request,
    though, so it reads the request, and answers it in the place of the server.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - both interfaces give their own
        if has_request_context() and request.path.endswith("/setup"):
            try:
                sent = protocol.understood(wire.SetupRequest, _body(), request.path)
                _answer_with(jsonify(protocol.answer_setup(_backend(), sent)))
            except BackendError as error:
                _answer_with(refusal(error))
        super().__init__(*args, **kwargs)

    def predict(
        self,
        tasks: list[dict[str, Any]],
        **kwargs: Any,  # noqa: ANN401, ARG002 - login, password and context, which stand in the request as well
    ) -> list[dict[str, Any]]:
        """Return an entry for each task, from the store or by a worker, as our own /predict does."""
        sent = {"project": next((task.get("project") for task in tasks), None), **_body(), "tasks": tasks}
        try:
            asked = protocol.understood(wire.PredictRequest, sent, "/predict")
            results: list[dict[str, Any]] = protocol.answer_predict(_backend(), asked)["results"]
        except BackendError as error:
            if not has_request_context():
                raise
            _answer_with(refusal(error))
            return []
        return results

    def process_event(
        self,
        event: str,
        data: dict[str, Any],
        job_id: str | None = None,  # noqa: ARG002 - the server's
        additional_params: dict[str, Any] | None = None,  # noqa: ARG002 - the server's
    ) -> dict[str, Any]:
        """Note what a webhook says and wake the worker; called in a process of its own by the 1.x server."""
        heard = protocol.understood(wire.WebhookEvent, {**data, "action": event}, "/webhook")
        answer, _ = protocol.answer_webhook(_backend(), heard, None)
        return answer

    def fit(
        self,
        event: str | Iterable[dict[str, Any]],
        data: object = None,
        **kwargs: Any,  # noqa: ANN401, ARG002 - the server's
    ) -> dict[str, Any]:
        """Note an event, as the 2.x server tells it here; the tasks of a 1.x /train are not needed."""
        if isinstance(event, str) and isinstance(data, dict):
            return self.process_event(event, data)
        return {"status": "ok", "message": "Training starts by itself after each label."}


@lru_cache(maxsize=1)
def _backend() -> protocol.Backend:
    return protocol.Backend.of(Settings())


def _body() -> dict[str, Any]:
    """Return the JSON of the request that is being answered; empty outside of one."""
    sent = request.get_json(silent=True) if has_request_context() else None
    return sent if isinstance(sent, dict) else {}


def _answer_with(answer: Response) -> None:
    after_this_request(lambda _: answer)
