"""What is wrong, and what to do about it."""

from __future__ import annotations

from flask import Blueprint, redirect, url_for
from werkzeug.wrappers import Response

from ls_backend.web.protocol import Backend
from ls_backend.web.ui.frame import page, titles


def routes(door: Blueprint, backend: Backend) -> None:
    """Add the pages."""
    store = backend.store

    @door.get("/problems")
    def problems() -> str:
        return page("problems.html", problems=store.problems.open_anywhere(), titles=titles(store))

    @door.post("/problems/look")
    def look() -> Response:
        backend.queues.kick_examine()
        return redirect(url_for("ui.problems"), 303)
