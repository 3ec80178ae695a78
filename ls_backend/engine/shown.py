"""What annotators are shown as pre-annotation: the likeliest choices and the regions of the deep versions.

Where somebody else's model predicts, it is what that one says; of tasks it has not answered it is ours.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ls_backend.domain import LabelSchema
from ls_backend.engine import foreign_model
from ls_backend.labelstudio import label_config
from ls_backend.store import Store

Result = tuple[dict[str, Any], ...]


def results(
    store: Store, project_id: int, schema: LabelSchema, probabilities: Mapping[int, Sequence[float] | None]
) -> dict[int, Result]:
    """Write predictions of tasks in Label Studio's format; what is below the threshold of its control is left out.

    Args:
        store: Holds what deep versions and foreign models see.
        project_id: Owner of the tasks.
        schema: Its label config.
        probabilities: Task id -> probabilities of the classes of the schema; None where our heads say nothing.

    Returns:
        Task id -> regions, for every task given.
    """
    found: dict[int, Result] = {
        task_id: () if values is None else label_config.chosen(schema, values)
        for task_id, values in probabilities.items()
    }
    theirs = foreign_model.answers(store, project_id, schema, found)
    if theirs is not None:
        return found | theirs
    for control in schema.controls:
        if not control.draws or not found:
            continue
        for task_id, one in store.inferences.results(project_id, control.name, found).items():
            found[task_id] += tuple(region for region in one.result if region.get("score", 1.0) >= control.threshold)
    return found


def unseen(store: Store, project_id: int, schema: LabelSchema, task_ids: Collection[int]) -> set[int]:
    """Return the tasks that a deep version in force, or the foreign model, has not looked at yet."""
    theirs = foreign_model.unseen(store, project_id, schema, task_ids)
    if theirs is not None:
        return theirs
    found: set[int] = set()
    for control in schema.controls:
        version = store.deep_versions.in_force(project_id, control.name) if control.draws else None
        if version is not None:
            looked_at = store.inferences.results(project_id, control.name, task_ids)
            found |= {task_id for task_id in task_ids if task_id not in looked_at}
    return found
