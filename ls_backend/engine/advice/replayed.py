"""What the plan in force has saved: the labels of the project labelled again, in its order and in that of chance."""

from __future__ import annotations

from typing import Any

from ls_backend.engine import known, replay
from ls_backend.engine.context import Context
from ls_backend.engine.known import Say
from ls_backend.errors import ConfigUnsupported, PoolInvalid, TooFewLabels

SAVINGS = "savings"
"""Under which kind it is kept among the insights."""

IN_FORCE = "plan in force"
BATCH = 10
SEEDS = 10
MOST_ROUNDS = 20


def replay_savings(context: Context, project_id: int, *, say: Say) -> dict[str, Any]:
    """Replay the labels of a project and keep the result as the insight "savings".

    Minutes of work. The figures compare plans on the labels that the queue has asked for, not on all tasks.

    Args:
        context: Store and embeddings.
        project_id: A connected project.
        say: Told how far it is.

    Returns:
        What was kept: "refused" is None and the rest is that of `replay.Report.plain`, or "refused" says why nothing
        can be replayed; "settings" are those of the replay.

    Raises:
        SettingsError: If it was never connected, or its backbone cannot be had.
        StrategyError: If the plan does not fit the tasks.
    """
    content: dict[str, Any] = {"refused": None, "settings": {"batch": BATCH, "rounds": MOST_ROUNDS, "seeds": SEEDS}}
    try:
        plans = {IN_FORCE: replay.plan_in_force(context, project_id)}
        tasks = known.of_project(context, project_id, plans.values())
        content |= replay.replay(tasks, plans, say=say, batch=BATCH, seeds=SEEDS).plain()
    except (TooFewLabels, ConfigUnsupported, PoolInvalid) as error:  # no fault, and nobody has to be told twice
        content["refused"] = f"{error} {error.hint}"
    context.store.insights.put(project_id, SAVINGS, content)
    return content
