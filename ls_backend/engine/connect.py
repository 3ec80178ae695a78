"""Everything a project needs to be labelled in our order, done once and safe to repeat."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from ls_backend.domain import MENDED_BY_CONNECTING, ORDERED_SAMPLING
from ls_backend.engine import configure
from ls_backend.engine.context import Context
from ls_backend.errors import Rejected, SettingsError
from ls_backend.labelstudio import label_config, order_tab
from ls_backend.settings import ProjectSettings

TITLE = "ls_backend"


@dataclass(frozen=True)
class Step:
    """One set-up step and what it did."""

    name: str
    outcome: str


def connect(
    context: Context,
    project_id: int,
    *,
    title: str = TITLE,
    extra_params: dict[str, Any] | None = None,
    who: str = configure.ANONYMOUS,
    tab: bool = True,
) -> list[Step]:
    """Connect a Label Studio project: ML backend, webhook with a secret, sampling mode, a tab; a ranking is asked for.

    Args:
        context: Settings with LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY, store.
        project_id: Label Studio's id.
        title: Name of the ML backend in Label Studio; one that exists keeps its own.
        extra_params: Project settings; None keeps those in force.
        who: Name of the user, for the history of settings.
        tab: Whether the Data Manager is to have a tab that lists the labelling queue.

    Raises:
        SettingsError: The settings are wrong, or Label Studio may not call private addresses.
        ConfigUnsupported: The label config has nothing to learn from.
        Rejected: Label Studio refuses the token, or cannot reach this server; the message has its words.
    """
    wanted = None if extra_params is None else ProjectSettings.from_extra_params(extra_params)
    known = context.store.projects.get(project_id)
    client = context.client(known)
    state = client.project(project_id)
    schema = label_config.parse(state.label_config)
    if wanted is not None:
        configure.check(context.settings, schema, wanted)
    learnt = "; ".join(
        f"{control.name}: {len(control.classes)} classes on {control.obj}" for control in schema.controls
    )
    steps = [Step("label config", learnt)]
    url = context.settings.public_url
    context.store.projects.ensure(project_id)
    context.store.projects.set(project_id, title=state.title)
    if wanted is not None:
        configure.save(context.store, context.settings, project_id, wanted, source="connect", who=who, schema=schema)
        # Label Studio repeats them while it adds us, and ever after.
        context.store.projects.set(project_id, said_params=configure.said(extra_params))
    steps.append(Step("ml backend", _ml_backend(context, project_id, url, title, extra_params)))
    project = context.project(project_id)
    secret = project.webhook_secret or secrets.token_urlsafe(24)
    outcome = client.ensure_webhook(project_id, f"{url}/webhook", secret)
    context.store.projects.set(project_id, webhook_secret=secret, webhook_url=f"{url}/webhook")
    steps.append(Step("webhook", outcome))
    changes: dict[str, object] = {}
    if state.sampling != ORDERED_SAMPLING:
        changes["sampling"] = ORDERED_SAMPLING
    if not state.show_collab_predictions:
        changes["show_collab_predictions"] = True
    if changes:
        client.update_project(project_id, **changes)
    steps.append(Step("sampling", "set" if changes else "kept"))
    if tab:
        steps.append(Step("tab", f"{order_tab.TITLE}: {client.ensure_order_tab(project_id, schema.field)}"))
    for code in MENDED_BY_CONNECTING:
        context.store.problems.resolve(project_id, code)
    context.store.projects.bump(project_id)
    steps.append(Step("ranking", "asked for"))
    return steps


def _ml_backend(context: Context, project_id: int, url: str, title: str, extra_params: dict[str, Any] | None) -> str:
    """Add or update the row of this server in Label Studio, which calls /health and /setup before it answers."""
    client = context.client(context.project(project_id))
    settings = context.settings
    auth = None
    if settings.basic_auth_user is not None and settings.basic_auth_pass is not None:
        auth = (settings.basic_auth_user, settings.basic_auth_pass.get_secret_value())
    ours = next((item for item in client.ml_backends(project_id) if item.url.rstrip("/") == url), None)
    try:
        if ours is None:
            client.put_ml_backend(project_id, url, title, extra_params=extra_params, basic_auth=auth)
            return f"added as {title}"
        kept = ours.extra_params if extra_params is None else extra_params
        client.put_ml_backend(
            project_id, url, ours.title, backend_id=ours.backend_id, extra_params=kept, basic_auth=auth
        )
    except Rejected as error:
        if error.status == 403 and "reserved" in str(error):
            raise SettingsError(
                f"Label Studio refuses the address {url} because it is private: {error}",
                hint="Start Label Studio with ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false.",
            ) from error
        raise
    return "updated"
