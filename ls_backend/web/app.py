"""Composition root of the server process."""

from __future__ import annotations

import hmac
import logging
import re
import threading
import uuid
from http import HTTPStatus
from typing import TYPE_CHECKING

import structlog
from flask import Response, abort, g, jsonify, request
from flask_openapi3.models.info import Info
from flask_openapi3.openapi import OpenAPI
from werkzeug.exceptions import HTTPException

from ls_backend import __version__, logs
from ls_backend.errors import BackendError, QueueError, SettingsConflict
from ls_backend.labelstudio import label_config
from ls_backend.settings import Settings
from ls_backend.web import api, operations, protocol, ui

if TYPE_CHECKING:
    from werkzeug.wrappers import Response as BaseResponse

log = logs.get(__name__)

OPEN_PATHS = frozenset({"/", "/health", "/webhook"})
"""Reachable without Basic authentication: probes say nothing secret, and Label Studio sends no credentials with a
webhook; that one is guarded by its own secret header."""

REASON_LENGTH = 400

LOGIN_REMEDY = "Choose Basic auth for the model and give those of BASIC_AUTH_USER and BASIC_AUTH_PASS."
PATH_REMEDY = "Give the address without a path behind the port."
REQUEST_ID_HEADER = "X-Request-ID"
_GIVEN_ID = re.compile(r"[\w.-]{1,64}")

OTHER_SITES = frozenset({"cross-site", "same-site"})
"""What a browser writes into Sec-Fetch-Site of a request that a page of another server has made."""

WARM_AFTER_S = 0.5


def create_app(settings: Settings | None = None) -> OpenAPI:
    """Build the server: gunicorn calls this with nothing, tests with their own settings.

    Args:
        settings: Deployment settings; None reads the environment.
    """
    settings = settings or Settings()
    logs.configure(settings, process="server")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    app = OpenAPI(
        "ls_backend",
        info=Info(title="ls_backend", version=__version__, description="Active learning for Label Studio"),
        doc_prefix="/docs",
    )
    backend = protocol.Backend.of(settings)
    app.register_blueprint(protocol.blueprint(backend))
    app.register_api(api.blueprint(backend))
    app.register_api(operations.blueprint(backend))
    app.register_blueprint(ui.blueprint(backend))
    _number_requests(app)
    _authenticate(app, settings)
    _refuse_other_sites(app)
    _explain_errors(app)
    backend.wake_all()
    # The SDK takes a second to load, twice that on a busy machine, and /setup has three; /health must not wait for it.
    warming = threading.Timer(WARM_AFTER_S, label_config.warm)
    warming.daemon = True
    warming.start()
    return app


def _number_requests(app: OpenAPI) -> None:
    """Give each request an id that stands in its log lines and in its answer; a proxy's id is kept."""

    def begin() -> None:
        given = request.headers.get(REQUEST_ID_HEADER, "")
        g.request_id = given if _GIVEN_ID.fullmatch(given) else uuid.uuid4().hex[:12]
        structlog.contextvars.bind_contextvars(request=g.request_id)

    def answer(response: Response) -> Response:
        response.headers[REQUEST_ID_HEADER] = g.request_id
        return response

    def end(_error: BaseException | None) -> None:
        structlog.contextvars.unbind_contextvars("request")  # the thread serves others after this one

    app.before_request(begin)
    app.after_request(answer)
    app.teardown_request(end)


def _authenticate(app: OpenAPI, settings: Settings) -> None:
    user, password = settings.basic_auth_user, settings.basic_auth_pass
    if user is None or password is None:
        return

    def check() -> Response | None:
        if request.path in OPEN_PATHS:
            return None
        sent = request.authorization
        good = (
            sent is not None
            and sent.type == "basic"
            and hmac.compare_digest((sent.username or "").encode(), user.encode())
            and hmac.compare_digest((sent.password or "").encode(), password.get_secret_value().encode())
        )
        if good:
            return None
        answer = Response("Login required", 401, {"WWW-Authenticate": 'Basic realm="Login required"'})
        what = "a wrong" if sent is not None else "no"
        answer.status = f"401 {reason_phrase(f'ls_backend was given {what} user name or password. {LOGIN_REMEDY}')}"
        return answer

    app.before_request(check)


def _refuse_other_sites(app: OpenAPI) -> None:
    """Refuse what another site makes a browser send: it knows the password, and may be where no one else is let in.

    Browsers say where a request comes from; Label Studio, scripts and the command line do not, and are let through.
    """

    def check() -> None:
        if request.method not in ("GET", "HEAD", "OPTIONS") and request.headers.get("Sec-Fetch-Site") in OTHER_SITES:
            abort(403, description="Another site has sent this request; use the pages of this server instead.")

    app.before_request(check)


def reason_phrase(text: str) -> str:
    """Return a text fit for an HTTP status line: one line of plain ASCII words.

    It is the one text of ours that Label Studio shows an admin, who sees it with tags stripped.
    """
    plain = " ".join(text.replace("<", "").replace(">", "").split())
    return plain.encode("ascii", "replace").decode()[:REASON_LENGTH]


def refusal(error: BackendError) -> Response:
    """Return the answer to a request that an error of ours refuses; its reason phrase says why."""
    status = HTTPStatus.BAD_REQUEST
    if isinstance(error, QueueError):
        status = HTTPStatus.SERVICE_UNAVAILABLE
    elif isinstance(error, SettingsConflict):
        status = HTTPStatus.CONFLICT
    log.warning("refused", path=request.path, code=error.code, reason=str(error))
    answer = jsonify({"error": error.code, "message": str(error), "hint": error.hint})
    answer.status = f"{int(status)} {reason_phrase(f'{error} {error.hint}')}"
    return answer


def _explain_errors(app: OpenAPI) -> None:
    def refused(error: Exception) -> BaseResponse:
        assert isinstance(error, BackendError)
        return refusal(error)

    def http(error: Exception) -> BaseResponse:
        assert isinstance(error, HTTPException)
        answer = jsonify({"error": "http", "message": error.description})
        answer.status_code = error.code or 500
        if error.code == HTTPStatus.NOT_FOUND and request.path.endswith(("/health", "/setup")):
            # Only Label Studio asks for these, with what somebody has typed as the address in front.
            answer.status = f"404 {reason_phrase(f'ls_backend has nothing at {request.path}. {PATH_REMEDY}')}"
        return answer

    def broken(error: Exception) -> BaseResponse:
        number = g.request_id
        log.error("unexpected error", path=request.path, exc_info=error)
        answer = jsonify({"error": "internal", "message": f"Unexpected error {number}; the server's log has it."})
        answer.status = f"500 Unexpected error {number}, see the log of ls_backend"
        return answer

    app.register_error_handler(BackendError, refused)
    app.register_error_handler(HTTPException, http)
    app.register_error_handler(Exception, broken)
