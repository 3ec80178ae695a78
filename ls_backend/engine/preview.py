"""How the head of the queue would change with other settings: ranked as an update would, and nothing else is touched.

Nothing is trained, published or drawn: the model in force ranks, also where the settings would have it refitted, and
the backbone in force is the one that embedded.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ls_backend.domain import LabelSchema
from ls_backend.engine import backbones, configure, rerank, retrain
from ls_backend.engine.context import Context
from ls_backend.engine.view import view
from ls_backend.errors import BackendError, TooFewLabels
from ls_backend.labelstudio import label_config
from ls_backend.settings import ProjectSettings
from ls_backend.store import Project, WindowRow

HEAD = 20
"""Tasks compared."""


def preview(context: Context, project_id: int, token: str) -> None:
    """Answer a preview that `configure.ask_preview` has noted.

    The answer has "state" ("done" or "failed"), "error" (in words, when it failed), "notes" (what the settings would
    not do, or not at once), "before" and "after": rows with "task_id", "rank" (from 0), "reason", "factors" and "was",
    the rank in what is left of the window in force, None for a task that is not in it.
    """
    asked = context.store.insights.get(project_id, configure.preview_kind(token))
    if asked is None:
        return  # others have been asked for since
    answer: dict[str, Any] = {"settings": asked.content["settings"], "before": [], "after": [], "notes": []}
    try:
        wanted = ProjectSettings.from_extra_params(asked.content["settings"])
        answer |= {"state": "done", "error": None, **compared(context, context.project(project_id), wanted)}
    except BackendError as error:
        answer |= {"state": "failed", "error": f"{error} {error.hint}"}
    except Exception as error:
        told = f"Unexpected error: {type(error).__name__}. The worker's log has it."
        context.store.insights.put(
            project_id, configure.preview_kind(token), {**answer, "state": "failed", "error": told}
        )
        raise
    context.store.insights.put(project_id, configure.preview_kind(token), answer)


def compared(context: Context, project: Project, wanted: ProjectSettings) -> dict[str, Any]:
    """Rank with other settings and compare with what is left of the window in force; see `preview`.

    Raises:
        BackendError: The pool cannot be ranked, for example because no task has an embedding yet.
    """
    schema = label_config.parse(project.label_config or "")
    available = context.store.tasks.available(project.id)
    rows = context.store.windows.rows(project.id, project.window_version) if project.window_version else []
    left = [row for row in rows if row.task_id in available]
    place = {row.task_id: rank for rank, row in enumerate(left)}
    ranked = _ranked(context, project, schema, wanted)
    notes = [f"{finding.message} {finding.remedy}" for finding in ranked.findings]
    return {
        "before": [_plain(row, rank, place) for rank, row in enumerate(left[:HEAD])],
        "after": [_plain(row, rank, place) for rank, row in enumerate(ranked.rows[:HEAD])],
        "notes": notes + _later(context, project, wanted),
    }


def _ranked(context: Context, project: Project, schema: LabelSchema, wanted: ProjectSettings) -> rerank.Ranked:
    serving = backbones.in_force(context, project)
    supposed = replace(project, settings_json=wanted.model_dump_json())
    seen = view(context, supposed, schema, serving, read_again=False)
    if seen is None:
        raise TooFewLabels(
            f"No task of project {project.id} has an embedding yet, so there is no order to show.",
            hint="Wait until the first images are read.",
        )
    version = context.store.versions.in_force(project.id)
    usable = version is not None and version.backbone == serving and version.answers(schema)
    model = retrain.load(context, version) if version is not None and usable else None
    return rerank.order(context, supposed, schema, seen, model, rerank.window_size(context, supposed, wanted))


def _later(context: Context, project: Project, wanted: ProjectSettings) -> list[str]:
    """Say what takes more than another order."""
    present = context.project_settings(project)
    notes = []
    if wanted.backbone != present.backbone:
        notes.append(f"{wanted.backbone} embeds all images first; until then the present backbone ranks, as here.")
    if wanted.model != present.model:
        notes.append("Another model has to look at the tasks first; what it would say is not in this order.")
    if wanted.test_set and not context.store.tasks.test_set(project.id):
        notes.append(f"A test set of {wanted.test_set} tasks would be drawn and served before everything else.")
    return notes


def _plain(row: WindowRow, rank: int, place: dict[int, int]) -> dict[str, Any]:
    return {
        "task_id": row.task_id,
        "rank": rank,
        "reason": row.reason,
        "factors": row.factors,
        "was": place.get(row.task_id),
    }
