"""The locked test set: drawn once, served first, never learnt from, so that what is measured on it will hold."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import numpy as np

from ls_backend import logs
from ls_backend.domain import Finding
from ls_backend.engine.context import Context
from ls_backend.errors import StrategyError
from ls_backend.settings import ProjectSettings
from ls_backend.store import Project
from ls_backend.strategies.test_set import choose

log = logs.get(__name__)

SUBJECT = "setting test_set"


def draw(context: Context, project: Project) -> None:
    """Draw the test set, if the project wants one and has none yet; what stands in the way is a problem.

    It is drawn from all tasks that nobody has skipped, the labelled ones among them. Drawn from the rest alone it would
    lack what the plan had asked for before, and stand for the easy tasks only. It is drawn once: a set that grew later
    could take in tasks that an earlier model had learnt from.
    """
    settings = context.project_settings(project)
    problem = None
    if settings.test_set:
        members = context.store.tasks.test_set(project.id)
        problem = _too_small(settings, len(members)) if members else _drawn(context, project, settings)
    if problem is None:
        context.store.problems.resolve(project.id, "test-set", SUBJECT)
    else:
        context.store.problems.report(project.id, problem)


def members(context: Context, project: Project) -> set[int]:
    """Return the tasks of the test set in force; none while it is switched off, or not drawn yet."""
    return context.store.tasks.test_set(project.id) if context.project_settings(project).test_set else set()


def in_turn(task_ids: Collection[int], seed: int) -> list[int]:
    """Return tasks in the order to label them: by lot, so that those labelled so far are a fair sample of the set."""
    return sorted(task_ids, key=lambda task_id: hashlib.sha256(f"{seed}/{task_id}".encode()).digest())


def _drawn(context: Context, project: Project, settings: ProjectSettings) -> Finding | None:
    table = context.store.tasks.rows(project.id)
    task_ids = table.task_id[(table.n_cancelled == 0) | (table.n_annotations > 0)]
    n = len(task_ids)
    if settings.test_set > n // 2:
        return _finding(
            f"A test set of {settings.test_set} tasks is asked for, the project has {n} that can be labelled; expected "
            f"at most half of them, {n // 2}. The hold-out is measured on meanwhile.",
            "Import more tasks, and the test set is drawn; or set test_set to a smaller number.",
        )
    strata = None
    if settings.test_set_by is not None:
        by = settings.test_set_by
        strata = context.store.tasks.columns(project.id, task_ids.tolist(), [by])[by]
        if all(value is None for value in strata):
            return _finding(
                f"None of the {n} tasks has the field '{settings.test_set_by}', by which the test set is to be drawn.",
                "Correct test_set_by in the project settings, or import tasks that have the field.",
            )
    rng = np.random.default_rng((settings.seed, project.id))
    try:
        rows = choose(n, settings.test_set, rng, strata=strata, target=settings.test_set_target)
    except StrategyError as error:
        return _finding(f"The test set cannot be drawn: {error}", "Correct test_set in the project settings.")
    context.store.tasks.lock_test_set(project.id, task_ids[rows].tolist())
    log.info("test set drawn", project=project.id, tasks=len(rows), of=n, by=settings.test_set_by)
    return None


def _too_small(settings: ProjectSettings, n_members: int) -> Finding | None:
    if settings.test_set <= n_members:
        return None
    return _finding(
        f"A test set of {settings.test_set} tasks is asked for; it was drawn before and has {n_members}. It stays as "
        "it is, because what joins it later may have been learnt from.",
        f"Set test_set to {n_members}.",
    )


def _finding(message: str, remedy: str) -> Finding:
    return Finding("test-set", "warning", SUBJECT, message, remedy)
