"""Project settings on the command line: looked at, changed, taken back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ls_backend.cli.terminal import AsJson, ProjectId, app, err, explained, kick, open_context, out, plain, user
from ls_backend.errors import QueueError, SettingsError

if TYPE_CHECKING:
    from ls_backend.engine.context import Context
    from ls_backend.settings import ProjectSettings
    from ls_backend.store import Revision

PREVIEW_S = 60.0
"""Seconds to wait for a preview."""

Expected = Annotated[
    int | None,
    typer.Option(min=0, help="Revision you have looked at; refused when somebody has saved since. Unset: no matter."),
]

settings = typer.Typer(name="settings", help="Look at project settings, change them, take changes back.")
app.add_typer(settings)


@settings.command("get")
@explained
def get(project: ProjectId, as_json: AsJson = False) -> None:
    """Print the settings in force, who said them, where and when."""
    context = open_context()
    _print(context, project, as_json=as_json)


@settings.command("set")
@explained
def change(
    project: ProjectId,
    pairs: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATH=VALUE", help="For example explore=0.1 or objectives.uncertainty.strength=2."),
    ] = None,
    whole: Annotated[
        str | None, typer.Option("--settings", help="All settings as JSON, to which the pairs are then applied.")
    ] = None,
    expected: Expected = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show how the queue would change, and save nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Change settings; the labelling queue follows by itself."""
    from ls_backend.engine import configure  # noqa: PLC0415 - slow to import
    from ls_backend.settings import ProjectSettings  # noqa: PLC0415 - only here

    context = open_context()
    _, present = configure.in_force(context.store, project)
    if not pairs and whole is None:
        raise SettingsError(
            "Nothing to set was given.", hint="Give pairs such as explore=0.1, or all settings with --settings."
        )
    start = present if whole is None else ProjectSettings.from_extra_params(whole)
    wanted = configure.amended(start, dict(_pair(text) for text in pairs or ()))
    if preview:
        _preview(context, project, wanted, as_json=as_json)
        return
    configure.save(
        context.store, context.settings, project, wanted, source="command line", who=user(), expected=expected
    )
    kick(context, project)
    _print(context, project, as_json=as_json)


@settings.command("schema")
@explained
def schema(as_json: AsJson = False) -> None:
    """List every setting with its range and meaning; --json prints the JSON schema."""
    from ls_backend.engine import configure  # noqa: PLC0415 - slow to import

    described = configure.schema()
    if as_json:
        print(json.dumps(described, indent=2))  # noqa: T201 - the command's answer
        return
    table = Table("setting", "default", "meaning")
    for name, field in described["properties"].items():
        table.add_row(name, escape(json.dumps(field.get("default"))), escape(field.get("description", "")))
    out.print(table)


@settings.command("history")
@explained
def history(
    project: ProjectId,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Revisions to print.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List who changed what, when and where, newest first."""
    from ls_backend.engine import configure  # noqa: PLC0415 - slow to import

    changes = configure.history(open_context().store, project, limit)
    if as_json:
        told = [{**_said(one.revision), "differences": [plain(item) for item in one.differences]} for one in changes]
        print(json.dumps({"revisions": told}, indent=2))  # noqa: T201 - the command's answer
        return
    table = Table("revision", "when (UTC)", "who", "where", "what")
    for change in changes:
        one = change.revision
        what = "; ".join(map(str, change.differences)) or "first settings"
        table.add_row(str(one.revision), f"{one.at:%Y-%m-%d %H:%M:%S}", escape(one.who), one.source, escape(what))
    out.print(table)


@settings.command("undo")
@explained
def undo(
    project: ProjectId,
    to: Annotated[int | None, typer.Option(min=1, help="Revision to go back to; unset takes the one before.")] = None,
    expected: Expected = None,
    as_json: AsJson = False,
) -> None:
    """Put the settings of an earlier revision in force again; an undo can be undone."""
    from ls_backend.engine import configure  # noqa: PLC0415 - slow to import

    context = open_context()
    configure.undo(
        context.store, context.settings, project, to=to, source="command line", who=user(), expected=expected
    )
    kick(context, project)
    _print(context, project, as_json=as_json)


def _pair(text: str) -> tuple[str, Any]:
    """Read PATH=VALUE; a value that is no JSON is a text."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise SettingsError(f"{text!r} is not PATH=VALUE.", hint="Write for example explore=0.1.")
    try:
        return path, json.loads(value)
    except json.JSONDecodeError:
        return path, value


def _print(context: Context, project: int, *, as_json: bool) -> None:
    from ls_backend.engine import configure  # noqa: PLC0415 - slow to import
    from ls_backend.settings import ProjectSettings  # noqa: PLC0415 - only here

    revision, wanted = configure.in_force(context.store, project)
    values = wanted.model_dump(mode="json")
    if as_json:
        answer = {**_said(revision), "settings": values, "objectives": configure.effective(wanted)}
        print(json.dumps(answer, indent=2))  # noqa: T201 - the command's answer
        return
    title = "defaults"
    if revision is not None:
        title = f"revision {revision.revision}, {revision.source}, {revision.who}, {revision.at:%Y-%m-%d %H:%M:%S} UTC"
    table = Table("setting", "value", title=escape(title))
    defaults = ProjectSettings().model_dump(mode="json")
    for name, value in values.items():
        shown = escape(json.dumps(value, ensure_ascii=False))
        table.add_row(name, f"[dim]{shown}[/dim]" if value == defaults[name] else f"[bold]{shown}[/bold]")
    out.print(table)


def _said(revision: Revision | None) -> dict[str, Any]:
    if revision is None:
        return {"revision": 0, "source": None, "who": None, "at": None}
    return {name: plain(revision)[name] for name in ("revision", "source", "who", "at")}


def _preview(context: Context, project: int, wanted: ProjectSettings, *, as_json: bool) -> None:
    from ls_backend.engine import configure  # noqa: PLC0415 - slow to import
    from ls_backend.jobs.queues import Queues  # noqa: PLC0415 - slow to import

    token = configure.ask_preview(context.store, context.settings, project, wanted)
    queues = Queues.of(context.settings)
    try:
        with err.status("a worker ranks", spinner="line"):
            queues.preview(project, token, deadline_s=PREVIEW_S)
    finally:
        queues.close()
    found = configure.previewed(context.store, project, token)
    if found["state"] == "asked":
        raise QueueError(f"No worker has made the preview within {PREVIEW_S:.0f} s.", hint="See that a worker runs.")
    if found["state"] == "failed":
        raise SettingsError(found["error"], hint="Nothing was saved.")
    if as_json:
        print(json.dumps(found, indent=2))  # noqa: T201 - the command's answer
        return
    table = Table("rank", "was", "task", "reason", title="with these settings; nothing was saved")
    for row in found["after"]:
        was = "new" if row["was"] is None else str(row["was"])
        table.add_row(str(row["rank"]), was, str(row["task_id"]), escape(row["reason"]))
    out.print(table)
    for note in found["notes"]:
        out.print(escape(note), highlight=False)
