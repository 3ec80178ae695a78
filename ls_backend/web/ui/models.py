"""The model versions of a project: what was measured, two side by side, one put in force by hand."""

from __future__ import annotations

from flask import Blueprint, redirect, request, url_for
from werkzeug.wrappers import Response

from ls_backend.engine import rollback, versions
from ls_backend.web.answers import connected
from ls_backend.web.protocol import Backend
from ls_backend.web.ui.frame import page

VERSIONS_SHOWN = 100
_SHARES = frozenset({"accuracy", "balanced_accuracy", "ece"})


def routes(door: Blueprint, backend: Backend) -> None:
    """Add the pages."""
    store = backend.store

    @door.get("/projects/<int:project_id>/models")
    def models(project_id: int) -> str:
        found = connected(store, project_id)
        listing = versions.listed(store, found, VERSIONS_SHOWN)
        first, second = request.args.get("a"), request.args.get("b")
        return page(
            "models.html",
            project=found,
            serving=listing.in_force,
            versions=listing.versions,
            deep_versions=listing.deep_versions,
            hindrance={item.version_id: rollback.hindrance(found, item) for item in listing.versions},
            first=first,
            second=second,
            comparison=versions.compare(store, project_id, first or "", second or "") if first or second else None,
            written=_written,
            done=request.args.get("done"),
            shown=VERSIONS_SHOWN,
        )

    @door.post("/projects/<int:project_id>/models/force")
    def force(project_id: int) -> Response:
        rollback.rollback(store, connected(store, project_id).id, request.form.get("version", ""))
        return _done(project_id, "forced")

    @door.post("/projects/<int:project_id>/models/release")
    def release(project_id: int) -> Response:
        rollback.release(store, connected(store, project_id).id)
        return _done(project_id, "released")

    def _done(project_id: int, what: str) -> Response:
        backend.wake(project_id)
        return redirect(url_for("ui.models", project_id=project_id, done=what), 303)


def _written(name: str, value: float | None, *, sign: bool = False) -> str:
    """Write a figure, or with its sign a difference: shares as per cent, others with three decimals."""
    if value is None:
        return "none"
    if sign:
        return f"{100 * value:+.1f} points" if name in _SHARES else f"{value:+.3f}"
    return f"{100 * value:.1f} %" if name in _SHARES else f"{value:.3f}"
