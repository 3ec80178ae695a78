"""How far a project has come, on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ls_backend.cli.terminal import AsJson, ProjectId, app, explained, open_context, out

CURVE_SHOWN = 20
"""Model versions that are printed, the newest; --json gives all of them."""


@app.command()
@explained
def progress(
    project: ProjectId,
    hours: Annotated[int, typer.Option(min=1, max=720, help="Hours of throughput, the present one included.")] = 24,
    as_json: AsJson = False,
) -> None:
    """Show the learning curve, the labels of each class, who labelled how much, uncertainty and calibration."""
    from ls_backend.engine import progress as engine_progress  # noqa: PLC0415 - slow to import
    from ls_backend.engine.insights import KINDS  # noqa: PLC0415 - slow to import

    context = open_context()
    found = context.project(project)
    told = engine_progress.report(context.store, found, hours)
    told["insights"] = engine_progress.found_out(context.store, project, KINDS)
    if as_json:
        print(json.dumps(told, indent=2))  # noqa: T201 - the command's answer
    else:
        _print(told)


def _print(told: dict[str, Any]) -> None:
    out.print(escape(told["state"]["sentence"]), highlight=False)
    _table(
        "Learning curve",
        ("labels", "version", "measure", "value", "95 % interval", "state"),
        (
            (one["n_labels"], one["version_id"], one["metric"], _share(one["value"]), _interval(one), one["state"])
            for one in told["curve"][-CURVE_SHOWN:]
        ),
    )
    _table(
        "Labels of each class",
        ("control", "label", "tasks"),
        ((one["control"], one["label"], one["n"]) for one in told["balance"]),
    )
    _table(
        f"Labelled in the last {told['hours']} hours",
        ("hour (UTC)", "annotator", "labels", "skipped"),
        (
            (one["hour"][:16].replace("T", " "), one["annotator_id"] or "unknown", one["labels"], one["skipped"])
            for one in told["throughput"]
        ),
    )
    if uncertainty := told["insights"].get("uncertainty"):
        content = uncertainty["content"]
        edges = content["edges"]
        _table(
            f"How unsure the model is about the rest ({content['method']}), {_age(uncertainty)}",
            ("uncertainty", "tasks"),
            (
                (f"{low:.2f} to {high:.2f}", count)
                for low, high, count in zip(edges, edges[1:], content["counts"], strict=False)
            ),
        )
    if calibration := told["insights"].get("calibration"):
        content = calibration["content"]
        error = f"calibration error {_share(content['ece'])} on the {content['measured_on']}"
        _table(
            f"How often it is right when it is how sure: {error}, {_age(calibration)}",
            ("confidence", "accuracy", "answers"),
            ((_share(one["confidence"]), _share(one["accuracy"]), one["n"]) for one in content["bins"]),
        )


def _table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table; nothing where it has no row."""
    table = Table(*columns)
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    if table.row_count:
        out.print(f"[bold]{escape(title)}[/bold]", table, sep="\n", highlight=False)


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _interval(point: dict[str, Any]) -> str:
    return "" if point["low"] is None else f"{_share(point['low'])} to {_share(point['high'])}"


def _age(insight: dict[str, Any]) -> str:
    return f"{insight['age_s']:.0f} s ago"
