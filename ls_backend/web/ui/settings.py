"""The settings of a project: a form, what it would change, and who changed what before."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, make_response, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from ls_backend.engine import configure
from ls_backend.errors import BackendError, QueueError, SettingsConflict, SettingsError
from ls_backend.settings import ProjectSettings
from ls_backend.store import Project, Revision
from ls_backend.strategies import presets
from ls_backend.web.answers import connected
from ls_backend.web.protocol import Backend
from ls_backend.web.settings import user
from ls_backend.web.ui.form import Filled, Form, Reading
from ls_backend.web.ui.frame import page, task_url

EXPECTED, SHOWN = "_expected", "_shown"
"""What the form carries unseen: the revision it was made from, and the preset whose values it shows."""

NOTICES = {
    "saved": "Saved as revision {}; the queue follows.",
    "saved-later": "Saved as revision {}. The job queue gives no answer; the labelling queue follows when it is back.",
    "same": "Nothing was changed; revision {} stays in force.",
}
"""What was done before the page came, by its name in the address."""


@dataclass(frozen=True)
class Moved:
    """A task in one of the two orders of a preview.

    Attributes:
        task_id: The task.
        rank: From 1.
        was: Rank in the order in force, from 1; None for a task that is not in the window.
        move: Where it goes, in words.
        reason: Why it has its place.
    """

    task_id: int
    rank: int
    was: int | None
    move: str
    reason: str


@dataclass(frozen=True)
class Conflict:
    """What somebody else has saved meanwhile.

    Attributes:
        newest: His revision.
        differences: What he changed of the settings that the form was made from.
    """

    newest: Revision
    differences: tuple[configure.Difference, ...]


@dataclass(frozen=True)
class Sent:
    """A form as it came.

    Attributes:
        form: Its fields.
        values: Texts by name.
        expected: Revision it was made from.
        base: Settings of that revision.
        shown: Preset whose values it shows.
        reading: What it comes to.
    """

    form: Form
    values: Mapping[str, str]
    expected: int
    base: ProjectSettings
    shown: str
    reading: Reading


def routes(door: Blueprint, backend: Backend) -> None:
    """Add the pages."""
    store = backend.store

    @door.get("/projects/<int:project_id>/settings")
    def settings(project_id: int) -> Response:
        return _page(backend, connected(store, project_id), notice=_notice())

    @door.post("/projects/<int:project_id>/settings")
    def save_settings(project_id: int) -> BaseResponse:
        return _save(backend, connected(store, project_id))

    @door.post("/projects/<int:project_id>/settings/preset")
    def fill_settings(project_id: int) -> Response:
        return _fill(backend, connected(store, project_id))

    @door.post("/projects/<int:project_id>/settings/preview")
    def try_settings(project_id: int) -> Response:
        return _try(backend, connected(store, project_id))

    @door.get("/projects/<int:project_id>/settings/preview/<token>")
    def settings_preview(project_id: int, token: str) -> Response:
        return _preview(backend, connected(store, project_id), token)

    @door.post("/projects/<int:project_id>/settings/undo")
    def undo_settings(project_id: int) -> BaseResponse:
        return _undo(backend, connected(store, project_id))


def _save(backend: Backend, project: Project) -> BaseResponse:
    sent = _sent(backend, project)
    if sent.reading.settings is None:
        return _page(backend, project, sent, status=HTTPStatus.BAD_REQUEST)
    try:
        made = configure.save(
            backend.store,
            backend.settings,
            project.id,
            sent.reading.settings,
            source="dashboard",
            who=user(backend),
            expected=sent.expected,
        )
    except SettingsConflict:
        return _page(backend, project, sent, conflict=_conflict(backend, project, sent), status=HTTPStatus.CONFLICT)
    return _done(backend, project, made, sent.expected)


def _undo(backend: Backend, project: Project) -> BaseResponse:
    expected, to = (_number(request.form.get(name, "")) for name in (EXPECTED, "to"))
    try:
        made = configure.undo(
            backend.store,
            backend.settings,
            project.id,
            to=to,
            source="dashboard",
            who=user(backend),
            expected=expected,
        )
    except BackendError as error:
        status = HTTPStatus.CONFLICT if isinstance(error, SettingsConflict) else HTTPStatus.BAD_REQUEST
        return _page(backend, project, problem=f"{error} {error.hint}", status=status)
    return _done(backend, project, made, expected)


def _fill(backend: Backend, project: Project) -> Response:
    """Show what another preset says, in the objectives that are left to the preset; nothing is saved."""
    sent = _sent(backend, project)
    preset = sent.values.get("preset", "")
    if preset not in presets():
        return _page(backend, project, sent, status=HTTPStatus.BAD_REQUEST)
    values = sent.form.filled_from(sent.values, sent.base, sent.shown, preset)
    return _page(backend, project, replace(sent, values=values, shown=preset, reading=Reading(None, {})))


def _try(backend: Backend, project: Project) -> Response:
    """Have a worker try the settings of this request."""
    sent = _sent(backend, project)
    if sent.reading.settings is None:
        answer = _page(backend, project, sent, status=HTTPStatus.BAD_REQUEST)
        for name, value in {"HX-Retarget": "#live", "HX-Reselect": "#live", "HX-Reswap": "outerHTML"}.items():
            answer.headers[name] = value
        return answer
    status, preview = HTTPStatus.OK, {"state": "asked"}
    token = configure.ask_preview(backend.store, backend.settings, project.id, sent.reading.settings)
    try:
        backend.queues.preview(project.id, token)
    except QueueError as error:
        status, preview = HTTPStatus.SERVICE_UNAVAILABLE, {"state": "failed", "error": f"{error} {error.hint}"}
    if not _by_htmx():
        return _page(backend, project, sent, status=status, preview=preview, token=token)
    answer = make_response(page("preview.html", project=project, preview=preview, token=token), status)
    answer.headers["HX-Retarget"] = "#preview"  # to be read there whatever the status
    return answer


def _preview(backend: Backend, project: Project, token: str) -> Response:
    """Show a preview as far as it is."""
    try:
        preview = configure.previewed(backend.store, project.id, token)
    except SettingsError as error:
        preview = {"state": "failed", "error": f"{error} {error.hint}"}
    if preview["state"] == "asked" and _by_htmx():
        return make_response("", HTTPStatus.NO_CONTENT)  # what is there stays, and nobody is told it again
    told = {"project": project, "preview": _compared(preview), "token": token, "task_url": task_url(project)}
    return make_response(page("preview.html" if _by_htmx() else "preview_page.html", **told))


def _page(
    backend: Backend,
    project: Project,
    sent: Sent | None = None,
    *,
    status: HTTPStatus = HTTPStatus.OK,
    **more: object,
) -> Response:
    """Return the page: with the settings in force, or with what somebody has sent."""
    revision, wanted = configure.in_force(backend.store, project.id)
    newest = 0 if revision is None else revision.revision
    if sent is None:
        form = _form(project)
        filled = Filled(form.written(wanted), {}, wanted.preset)
        expected = newest
    else:
        filled = Filled(sent.values, sent.reading.errors, sent.shown)
        # Who is told of a conflict and saves again has seen what he saves over.
        expected = newest if status is HTTPStatus.CONFLICT else sent.expected
    words = wanted.model_dump(mode="json", exclude_defaults=True)
    extra_params = json.dumps(words, ensure_ascii=False)
    text = page(
        "settings.html",
        project=project,
        form=filled,
        expected=expected,
        revision=revision,
        history=configure.history(backend.store, project.id),
        extra_params=extra_params,
        command=f"ls-backend settings set --project {project.id} --settings {shlex.quote(extra_params)}",
        task_url=task_url(project),
        **more,
    )
    return make_response(text, status)


def _form(project: Project) -> Form:
    schema = configure.label_schema(project)
    return Form(() if schema is None else schema.classes)


def _sent(backend: Backend, project: Project) -> Sent:
    """Read the form of this request."""
    form, values = _form(project), request.form.to_dict()
    expected = _number(values.pop(EXPECTED, ""))
    shown = values.pop(SHOWN, "")
    base = _base(backend, project.id, expected)
    if shown not in presets():
        shown = base.preset
    schema = configure.label_schema(project)
    tidy = form.tidied(values)
    reading = form.read(tidy, base, shown, lambda wanted: configure.check(backend.settings, schema, wanted))
    return Sent(form, tidy, expected, base, shown, reading)


def _base(backend: Backend, project_id: int, expected: int) -> ProjectSettings:
    """Return the settings that a form was made from; the defaults where they are not kept any more."""
    revision, wanted = configure.in_force(backend.store, project_id)
    if expected == (0 if revision is None else revision.revision):
        return wanted
    found = backend.store.revisions.get(project_id, expected)
    return ProjectSettings() if found is None else configure.read(found)


def _conflict(backend: Backend, project: Project, sent: Sent) -> Conflict:
    newest, wanted = configure.in_force(backend.store, project.id)
    assert newest is not None  # somebody has saved
    changed = configure.differences(sent.base.model_dump(mode="json"), wanted.model_dump(mode="json"))
    return Conflict(newest, changed)


def _done(backend: Backend, project: Project, made: Revision, expected: int) -> BaseResponse:
    """Wake the worker and lead back to the page, which says what was done."""
    done = "same"
    if made.revision == expected + 1:  # or those settings were in force
        done = "saved" if backend.wake(project.id) else "saved-later"
    return redirect(url_for("ui.settings", project_id=project.id, done=done, revision=made.revision), 303)


def _notice() -> str | None:
    told = NOTICES.get(request.args.get("done", ""))
    return None if told is None else told.format(request.args.get("revision", 0, type=int))


def _compared(preview: Mapping[str, Any]) -> dict[str, Any]:
    """Return a preview with, for each task, where it goes or comes from."""
    before, after = preview.get("before", []), preview.get("after", [])
    then = {row["task_id"]: row["rank"] for row in after}
    gone = f"↓ not among the first {len(after)}"
    return {
        **preview,
        "before": [_moved(row, row["rank"], then.get(row["task_id"]), gone) for row in before],
        "after": [_moved(row, row["was"], row["rank"], gone) for row in after],
    }


def _moved(row: Mapping[str, Any], was: int | None, goes: int | None, gone: str) -> Moved:
    if goes is None:
        move = gone
    elif was is None:
        move = "→ new"
    elif was == goes:
        move = "= stays"
    else:
        move = f"↑ up {was - goes}" if goes < was else f"↓ down {goes - was}"
    return Moved(row["task_id"], row["rank"] + 1, None if was is None else was + 1, move, row["reason"])


def _by_htmx() -> bool:
    return request.headers.get("HX-Request") == "true"


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
