"""Label Studio compared with the store; what differs is repaired when it is ours, and reported otherwise.

Label Studio never repeats an event and tells nobody of a stale settings page that puts an old model version or another
sampling mode back. So every project is looked at once a minute, cheaply: one read of the project, one of its webhooks,
and a read of the tasks that changed.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta

from ls_backend import logs
from ls_backend.domain import ORDERED_SAMPLING, Finding, ProjectState
from ls_backend.engine import backbones, publishing, reasons
from ls_backend.engine.context import Context
from ls_backend.engine.sync import sync_until_counts_agree
from ls_backend.errors import Rejected
from ls_backend.labelstudio import publish
from ls_backend.labelstudio.reason_header import FIELD, shows_reason
from ls_backend.settings import ProjectSettings
from ls_backend.store import Project

log = logs.get(__name__)

COLLECT_S = 5.0

REPAIRED_SHOWN = timedelta(hours=1)


def reconcile(context: Context, project_id: int) -> None:
    """Compare a project with Label Studio and put right what is ours; ask for an update where the order suffers.

    Raises:
        Unreachable: Label Studio does not answer; the next comparison finds what was missed.
        Rejected: Label Studio refuses the token.
    """
    synced = sync_until_counts_agree(context, project_id)
    project, state, store = synced.project, synced.state, context.store
    if state is None:
        return
    settings = context.project_settings(project)
    _check_webhook(context, project)
    _check_overlap(context, state)
    _check_header(context, state, settings)
    reasons.look_again(context, project)
    queue_moved = _check_order(context, project, state, settings)
    publishing.collect(context, project, budget_s=COLLECT_S)
    now = datetime.now(UTC)
    if project.reconciled_at is None or (project.reconciled_at.date(), project.reconciled_at.hour) != (
        now.date(),
        now.hour,
    ):
        publishing.sweep(context, project)
        context.compact_vectors(backbones.in_force(context, project))
    store.projects.set(project_id, reconciled_at=now)
    behind = project.wanted_generation > project.done_generation
    needed = synced.schema is not None and (queue_moved or synced.changed > 0 or _runs_low(context, project))
    if needed and not behind:
        store.projects.bump(project_id)


def _runs_low(context: Context, project: Project) -> bool:
    """Say whether less than half of the window in force is left although more tasks wait, or there is none."""
    available = len(context.store.tasks.available(project.id))
    if project.window_version is None:
        return available > 0
    left, whole = context.store.windows.left(project.id, project.window_version)
    return left < whole / 2 and available > left


def _check_order(context: Context, project: Project, state: ProjectState, settings: ProjectSettings) -> bool:
    """Put sampling mode and model version back on our queue, or say that they are not. True when the window is lost."""
    report = context.store.problems.report
    manage = settings.manage_queue
    window = context.store.windows.in_force(project.id)
    if state.sampling == ORDERED_SAMPLING:
        _settle(context, project, "sampling-mode")
    else:
        if manage:
            context.client(project).update_project(project.id, sampling=ORDERED_SAMPLING)
        if window is not None or not manage:  # before the first window there is no order to lose
            report(project.id, _sampling_finding(state.sampling, repaired=manage))
    if not state.show_collab_predictions:
        report(
            project.id,
            Finding(
                "predictions-off",
                "error",
                "annotation settings",
                "'Use predictions to prelabel tasks' is off; Label Studio then serves tasks in random order.",
                "Turn it on under Settings, Annotation. For an order without pre-annotation set prelabel to false.",
            ),
        )
        return False
    context.store.problems.resolve(project.id, "predictions-off")
    if window is None or state.model_version == window.version:
        _settle(context, project, "model-version")
        return False
    if not manage:
        report(project.id, _version_finding(state.model_version, window.version, repaired=False))
        return False
    try:
        context.store.projects.set(project.id, pending_version=window.version)
        publish.flip(context.client(project), project.id, window.version)
        lost = False
    except Rejected as error:
        if error.status != 400:
            raise
        lost = True  # its predictions were deleted; a new window will be published
    context.store.projects.set(project.id, pending_version=None)
    report(project.id, _version_finding(state.model_version, window.version, repaired=True))
    log.warning("order restored", project=project.id, found=state.model_version, window=window.version, lost=lost)
    return lost


def _settle(context: Context, project: Project, code: str) -> None:
    """Close a problem that is over; a repaired one stays in sight for a while, or nobody would learn of it."""
    for problem in context.store.problems.open(project.id):
        told = problem.finding.level == "warning" and datetime.now(UTC) - problem.last_seen < REPAIRED_SHOWN
        if problem.finding.code == code and not told:
            context.store.problems.resolve(project.id, code)


def _sampling_finding(found: str, *, repaired: bool) -> Finding:
    return Finding(
        "sampling-mode",
        "warning" if repaired else "error",
        "general settings",
        f"The sampling mode was '{found}'; tasks are served in our order only with '{ORDERED_SAMPLING}'."
        + (" It was put back." if repaired else ""),
        "Close General settings pages left open elsewhere; to leave the mode to the owner set manage_queue to false."
        if repaired
        else "Run `ls-backend connect` for the project, or set manage_queue to true.",
        {"found": found},
    )


def _version_finding(found: str, expected: str, *, repaired: bool) -> Finding:
    return Finding(
        "model-version",
        "warning" if repaired else "error",
        "annotation settings",
        f"The project's model version was '{found}' instead of our window {expected}; the order was not ours."
        + (" It was put back." if repaired else ""),
        "Close Annotation settings pages left open elsewhere."
        if repaired
        else "Choose our version under Settings, Annotation, or set manage_queue to true.",
        {"found": found, "expected": expected},
    )


def _check_overlap(context: Context, state: ProjectState) -> None:
    if state.maximum_annotations > 1:
        context.store.problems.report(
            state.project_id,
            Finding(
                "overlap",
                "warning",
                "annotation settings",
                f"Each task wants {state.maximum_annotations} annotations; Label Studio then serves started tasks "
                "first, in random order, and only then ours.",
                "Set annotations per task to 1 where the order matters.",
            ),
        )
    else:
        context.store.problems.resolve(state.project_id, "overlap")


def _check_header(context: Context, state: ProjectState, settings: ProjectSettings) -> None:
    if settings.reasons and not shows_reason(state.label_config):
        context.store.problems.report(
            state.project_id,
            Finding(
                "reasons-no-header",
                "warning",
                "labelling interface",
                f"The setting reasons is on, but nothing in the labelling interface shows ${FIELD}, so no annotator "
                "sees a reason.",
                f"Run `ls-backend reasons --project {state.project_id} --add-header`, or set reasons to false.",
            ),
        )
    else:
        context.store.problems.resolve(state.project_id, "reasons-no-header")


def _check_webhook(context: Context, project: Project) -> None:
    """See that events reach us with our secret; a backend connected in Label Studio's own form has none yet."""
    url = project.webhook_url or _adopted_url(context, project)
    if url is None:
        context.store.problems.report(
            project.id,
            Finding(
                "webhook-missing",
                "error",
                "webhook",
                "No ML backend of this project points to this server, so Label Studio sends no events.",
                f"Run `ls-backend connect --project {project.id}`.",
            ),
        )
        return
    secret = project.webhook_secret or secrets.token_urlsafe(24)
    # Label Studio first: an event that carries a secret we do not ask for yet is fine, the other way round it is not.
    outcome = context.client(project).ensure_webhook(project.id, url, secret)
    if project.webhook_secret != secret or project.webhook_url != url:
        context.store.projects.set(project.id, webhook_secret=secret, webhook_url=url)
    if outcome == "created" and project.webhook_secret is not None:
        context.store.problems.report(
            project.id,
            Finding(
                "webhook-missing",
                "warning",
                "webhook",
                "The webhook had been deleted; it was made again. Events in between were found by comparing.",
                "Nothing; leave the webhook in place.",
            ),
        )
    elif outcome == "kept":
        context.store.problems.resolve(project.id, "webhook-missing")
        _settle(context, project, "webhook-secret")


def _adopted_url(context: Context, project: Project) -> str | None:
    """Return the webhook address of the ML backend that is us: by configured address, else the only one there is."""
    urls = [item.url.rstrip("/") for item in context.client(project).ml_backends(project.id)]
    ours = context.settings.public_url
    if ours in urls or context.settings.backend_url:
        return f"{ours}/webhook" if ours in urls else None
    return f"{urls[0]}/webhook" if len(urls) == 1 else None
