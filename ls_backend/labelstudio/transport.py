"""Authorised HTTP to one Label Studio: tokens, timeouts, retries, and refusals in its own words.

Why not the SDK's client: importing it takes 2.9 s (it pulls in pandas), a list of 1,800 tasks takes it 0.75 s where the
plain JSON takes 0.28 s (one pydantic model for each task), it hides which calls are repeated, and several calls this
backend lives on (retagging a prediction, deleting a version, the Data Manager's queue) are not typed there. The SDK
serves where it knows more than we do: the label config (`label_config.py`).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any, Self

import httpx
import stamina

from ls_backend.errors import Rejected, Unreachable

BULK_TIMEOUT_S = 900.0
"""Seconds for calls whose cost grows with the project: an export of 100,000 tasks takes minutes."""

_CONNECT_S = 10.0
_RENEW_BEFORE_S = 60.0
_PASSING_STATUS = frozenset({500, 502, 503, 504})
_MAX_WORDS = 400

_TOKEN_HINT = "Set LABEL_STUDIO_API_KEY to a valid personal access token (or legacy token) of this Label Studio."  # noqa: S105 - a sentence
_HINTS = {
    401: _TOKEN_HINT,
    403: "Use a token of a user who may administer the project.",
    404: "Check that the project or task still exists and that the token's user is in its organization.",
}


class Transport:
    """One Label Studio as one user; safe to share between threads.

    Accepts a personal access token (exchanged for access tokens, which are renewed before they end), an access token
    or a legacy token; which one it is is read from the token itself.

    Args:
        url: Address of Label Studio, with its sub-path if it has one.
        token: Credential of the user to act as.
        timeout_s: Seconds to wait for each answer, except for calls that are known to be long.
    """

    def __init__(self, url: str, token: str, *, timeout_s: float = 30.0) -> None:
        self.url = url.rstrip("/")
        self._token = token.strip()
        self._kind = _token_kind(self._token)
        self._http = httpx.Client(timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_S)))
        weakref.finalize(self, self._http.close)  # for owners who forget to
        self._lock = threading.Lock()
        self._access = ""
        self._access_ends = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the object cannot be used afterwards."""
        self._http.close()

    def authorization(self) -> str:
        """Value of the Authorization header, valid for at least a minute.

        Raises:
            Rejected: If Label Studio does not accept the personal access token.
            Unreachable: If it gives no answer.
        """
        if not re.fullmatch(r"[\x21-\x7e]+", self._token):
            raise Rejected("The token for Label Studio is empty or not a token.", status=401, hint=_TOKEN_HINT)
        if self._kind == "legacy":
            return f"Token {self._token}"
        if self._kind == "access":
            return f"Bearer {self._token}"
        with self._lock:
            if time.monotonic() >= self._access_ends - _RENEW_BEFORE_S:
                self._renew()
            return f"Bearer {self._access}"

    def get(self, path: str, params: Mapping[str, Any] | None = None, *, timeout_s: float | None = None) -> Any:  # noqa: ANN401 - JSON
        """Read JSON. Failures that pass by themselves are tried again, three times within seconds.

        Raises:
            Rejected: If Label Studio refuses.
            Unreachable: If it gives no answer.
        """
        for attempt in stamina.retry_context(on=_passes, attempts=3, timeout=20.0, wait_initial=0.2, wait_max=2.0):
            with attempt:
                return self.call("GET", path, params=params, timeout_s=timeout_s)
        raise AssertionError  # the last attempt raises its own error

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: object = None,
        files: list[tuple[str, tuple[str, bytes]]] | None = None,
        timeout_s: float | None = None,
    ) -> Any:  # noqa: ANN401 - JSON
        """Send one request, never repeated, and return the JSON of its answer (None when it has no body).

        Raises:
            Rejected: If Label Studio refuses.
            Unreachable: If it gives no answer.
        """
        authorization = self.authorization()
        timeout = httpx.USE_CLIENT_DEFAULT if timeout_s is None else httpx.Timeout(timeout_s, connect=_CONNECT_S)
        try:
            request = self._http.build_request(
                method, self.url + path, params=params, json=body, files=files, timeout=timeout
            )
        except httpx.InvalidURL as error:
            raise Unreachable(f"{self.url} is not an address: {error}.", hint="Correct LABEL_STUDIO_URL.") from error
        response = self._send(request, authorization)
        if response.status_code == httpx.codes.UNAUTHORIZED and self._kind == "personal":
            self._distrust(authorization)
            response = self._send(request, self.authorization())
        return self._read(response)

    def _send(self, request: httpx.Request, authorization: str | None) -> httpx.Response:
        if authorization is not None:
            request.headers["Authorization"] = authorization
        try:
            return self._http.send(request)
        except httpx.HTTPError as error:
            why = self._clean(str(error)) or type(error).__name__
            raise Unreachable(
                f"Label Studio at {self.url} gave no answer to {request.method} {request.url.path}: {why}.",
                passing=isinstance(error, httpx.ConnectError | httpx.ReadError | httpx.RemoteProtocolError),
            ) from error

    def _read(self, response: httpx.Response) -> Any:  # noqa: ANN401 - JSON
        what = f"{response.request.method} {response.request.url.path}"
        status = response.status_code
        if response.is_redirect:
            raise Rejected(
                f"Label Studio redirects {what} to {response.headers.get('location', 'nowhere')}.",
                status=status,
                hint="Set LABEL_STUDIO_URL to the address it redirects to.",
            )
        if not response.is_success:
            raise Rejected(
                f"Label Studio refused {what} with {status}: {self._clean(_words(response))}",
                status=status,
                hint=_HINTS.get(status),
            )
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError as error:
            kind = response.headers.get("content-type", "something unnamed")
            raise Rejected(
                f"{self.url} answered {what} with {kind}, not JSON.",
                status=status,
                hint="Check that LABEL_STUDIO_URL is Label Studio itself, not a login page or another service.",
            ) from error

    def _renew(self) -> None:
        request = self._http.build_request("POST", f"{self.url}/api/token/refresh/", json={"refresh": self._token})
        access = str(self._read(self._send(request, None))["access"])
        claims = _claims(access)
        life_s = float(claims.get("exp", 0)) - float(claims.get("iat", 0))
        self._access = access
        self._access_ends = time.monotonic() + (life_s if life_s > 0 else 2 * _RENEW_BEFORE_S)

    def _distrust(self, authorization: str) -> None:
        with self._lock:
            if authorization == f"Bearer {self._access}":
                self._access_ends = 0.0

    def _clean(self, text: str) -> str:
        for secret in (self._token, self._access):
            if secret:
                text = text.replace(secret, "[token]")
        return text


def _passes(error: Exception) -> bool:
    if isinstance(error, Unreachable):
        return bool(error.context.get("passing"))
    return isinstance(error, Rejected) and error.status in _PASSING_STATUS


def _claims(token: str) -> dict[str, Any]:
    """Read the claims of a JWT without checking its signature; {} when it is none."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _token_kind(token: str) -> str:
    kinds = {"refresh": "personal", "access": "access"}
    return kinds.get(str(_claims(token).get("token_type")), "legacy")


def _words(response: httpx.Response) -> str:
    """What a refusal says, in one line."""
    try:
        body = response.json()
    except ValueError:
        body = re.sub(r"<[^>]*>", " ", response.text)
    if isinstance(body, dict):
        found = [body.get("detail"), *_leaves(body.get("validation_errors"))]
        body = "; ".join(str(word) for word in found if word) or json.dumps(body)
    words = " ".join(str(body).split())
    return words if len(words) <= _MAX_WORDS else words[: _MAX_WORDS - 3] + "..."


def _leaves(value: object) -> list[object]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]
