"""Reasons inside Label Studio."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ls_backend.cli.terminal import AsJson, ProjectId, app, err, explained, open_context, out, plain


@app.command()
@explained
def reasons(
    project: ProjectId,
    remove: Annotated[
        bool, typer.Option("--remove", help="Take the reasons out of the task data now, for an export.")
    ] = False,
    add_header: Annotated[
        bool, typer.Option("--add-header", help="Put the line that shows the reason into the labelling interface.")
    ] = False,
    remove_header: Annotated[
        bool, typer.Option("--remove-header", help="Take that line out of the labelling interface.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what annotators see of the reasons, or change that. The setting `reasons` turns them on and off."""
    from ls_backend.engine import reasons as engine_reasons  # noqa: PLC0415 - slow to import

    if add_header and remove_header:
        raise typer.BadParameter("expected either --add-header or --remove-header, one of the two.")
    context = open_context()
    done: dict[str, int | bool] = {}
    if add_header or remove_header:
        done["header_changed"] = engine_reasons.show_header(context, project, wanted=add_header)
    if remove:
        with err.status("removing", spinner="line"):
            done["removed"] = engine_reasons.remove(context, project)
    shown = engine_reasons.shown(context, project)
    if as_json:
        print(json.dumps({"project": project, **plain(shown), **done}, indent=2))  # noqa: T201 - the command's answer
        return
    if "header_changed" in done:
        out.print("The labelling interface was changed." if done["header_changed"] else "Nothing was to be changed.")
    if remove:
        again = "; the next update writes them again, as long as the setting reasons is on" if shown.on else ""
        out.print(f"{done['removed']} reasons removed{again}.")
    shows = "shows" if shown.header else "does not show"
    tasks = f"{shown.tasks} tasks have one, {shown.to_do} are to be changed"
    out.print(f"reasons {'on' if shown.on else 'off'}; the labelling interface {shows} them; {tasks}", highlight=False)
