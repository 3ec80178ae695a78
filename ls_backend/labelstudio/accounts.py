"""Signing up and in as a person does, with forms and a session: for the demo and the tests."""

from __future__ import annotations

import re

import httpx

from ls_backend.errors import Rejected, Unreachable

_CSRF = re.compile(r'name="csrfmiddlewaretoken" value="([^"]+)"')


def sign_up(url: str, invite: str, email: str, password: str) -> str:
    """Create a user by an invitation and return his legacy token.

    Raises:
        Rejected: If the form or the legacy token is refused.
        Unreachable: If Label Studio gives no answer.
    """
    with _session() as session:
        _submit(session, f"{url}/user/signup/?token={invite}", {"email": email, "password": password})
        return str(_json(_request(session, "GET", f"{url}/api/current-user/token"))["token"])


def personal_access_token(url: str, email: str, password: str) -> str:
    """Create a personal access token of a user.

    Raises:
        Rejected: If the password is wrong, or the user has a valid token already (409): Label Studio shows each once.
        Unreachable: If Label Studio gives no answer.
    """
    with _session() as session:
        _submit(session, f"{url}/user/login/", {"email": email, "password": password})
        headers = {"X-CSRFToken": session.cookies.get("csrftoken") or "", "Referer": url}
        return str(_json(_request(session, "POST", f"{url}/api/token/", headers=headers))["token"])


def _session() -> httpx.Client:
    return httpx.Client(timeout=30.0)


def _submit(session: httpx.Client, form_url: str, fields: dict[str, str]) -> None:
    found = _CSRF.search(_request(session, "GET", form_url).text)
    if found is None:
        raise Rejected(f"{form_url.partition('?')[0]} shows no form.", status=200)
    fields = {**fields, "csrfmiddlewaretoken": found[1]}
    response = _request(session, "POST", form_url, data=fields, headers={"Referer": form_url})
    if response.status_code != httpx.codes.FOUND:
        raise Rejected(
            f"Label Studio refused the form at {form_url.partition('?')[0]} for {fields['email']}.",
            status=response.status_code,
            hint="Check the e-mail address and the password (8 characters or more).",
        )


def _request(
    session: httpx.Client,
    method: str,
    url: str,
    *,
    data: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    try:
        return session.request(method, url, data=data, headers=headers)
    except httpx.HTTPError as error:
        raise Unreachable(f"Label Studio gave no answer to {method} {url.partition('?')[0]}: {error}") from error


def _json(response: httpx.Response) -> dict[str, object]:
    if not response.is_success:
        raise Rejected(
            f"Label Studio refused {response.request.method} {response.url.path} with {response.status_code}: "
            f"{response.text[:200]}",
            status=response.status_code,
        )
    body: dict[str, object] = response.json()
    return body
