"""Advice on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from ls_backend.cli.terminal import AsJson, ProjectId, app, err, explained, open_context, out

if TYPE_CHECKING:
    from ls_backend.engine.advice import Advice

SHOWN = 10
"""Rows of each list that are printed; --json gives all of them."""


@app.command()
@explained
def advice(project: ProjectId, as_json: AsJson = False) -> None:
    """Say when to stop, which labels look wrong, who disagrees, what is there twice, and whether new tasks differ."""
    from ls_backend.engine.advice import advise  # noqa: PLC0415 - slow to import

    context = open_context()
    with err.status("reading", spinner="line") as status:
        made = advise(context, project, say=lambda words: status.update(escape(words)))
    if as_json:
        print(json.dumps(made.plain(), indent=2))  # noqa: T201 - the command's answer
    else:
        _print(made)


def _print(made: Advice) -> None:
    _say("Stop or go on", made.stop.sentence)
    _say("Wrong labels", made.relabel.sentence)
    _list(((one.task_id, one.reason) for one in made.relabel.suspects[:SHOWN]), made.relabel.n_suspects)
    _say("Disagreement", made.disagreement.sentence)
    _list(((one.task_id, one.reason) for one in made.disagreement.tasks[:SHOWN]), made.disagreement.n_disputed)
    _say("Near-duplicates", made.duplicates.sentence)
    _list(((one.task_ids[0], one.reason) for one in made.duplicates.groups[:SHOWN]), made.duplicates.n_groups)
    _say("Drift", made.drift.sentence)


def _say(title: str, sentence: str) -> None:
    out.print(f"[bold]{title}[/bold]: {escape(sentence)}", highlight=False)


def _list(rows: Iterable[tuple[int, str]], n: int) -> None:
    table = Table("task", "what", box=None)
    for task_id, words in rows:
        table.add_row(str(task_id), escape(words))
    if n > SHOWN:
        table.add_row("", f"and {n - SHOWN} more: --json")
    if table.row_count:
        out.print(table)
