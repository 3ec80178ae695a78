"""The tab of the Data Manager that lists the labelling queue, next task first.

It asks for tasks with a score. Label Studio knows the scores of the model version in force only, so the tab lists the
window in force by itself, whatever was published before.
"""

from __future__ import annotations

from typing import Any

from ls_backend.labelstudio.reason_header import FIELD

TITLE = "Labelling order"

FIRST_TITLE = "Default"
"""Label Studio makes a first tab of this name when a project without tabs is opened, but not beside another one."""

_HIDDEN = tuple(
    f"tasks:{name}"
    for name in (
        "inner_id",
        "completed_at",
        "cancelled_annotations",
        "total_predictions",
        "annotators",
        "annotations_results",
        "annotations_ids",
        "predictions_results",
        "file_upload",
        "storage_filename",
        "created_at",
        "updated_at",
        "updated_by",
        "avg_lead_time",
        "draft_exists",
    )
)


def contents(field: str) -> dict[str, Any]:
    """Return what the tab lists and how.

    Args:
        field: Field of the task data that is labelled.
    """
    # Not by "completed_at is empty": Label Studio's page rewrites the value of the operator "empty" to null as soon as
    # somebody opens the tab, and then fails with 500.
    conditions = [("predictions_score", "greater_or_equal"), ("total_annotations", "equal")]
    image = f"tasks:data.{field}"
    return {
        "title": TITLE,
        "type": "list",
        "target": "tasks",
        "ordering": ["tasks:predictions_score"],
        "filters": {
            "conjunction": "and",
            "items": [
                {"filter": f"filter:tasks:{name}", "operator": operator, "type": "Number", "value": 0}
                for name, operator in conditions
            ],
        },
        "hiddenColumns": {
            "explore": list(_HIDDEN),
            "labeling": [*_HIDDEN, "tasks:total_annotations", "tasks:predictions_model_versions", image],
        },
        "columnsWidth": {
            f"tasks:data.{FIELD}": 330,
            "tasks:predictions_score": 130,
            "tasks:predictions_model_versions": 210,
            image: 110,
        },
        "columnsDisplayType": {},
        "gridWidth": 4,
    }
