"""Every known trap looked at, each with its remedy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

from ls_backend.domain import ORDERED_SAMPLING, Finding, ProjectState
from ls_backend.engine.context import Context
from ls_backend.errors import BackendError, ConfigUnsupported, Rejected, Unreachable
from ls_backend.labelstudio import label_config
from ls_backend.labelstudio.client import SECRET_HEADER, Client
from ls_backend.store import Project

MIN_FREE_BYTES = 2**30
PROBE_S = 3.0


def examine(context: Context, project_ids: list[int] | None = None) -> Iterator[Finding]:
    """Look at the deployment, then at each project.

    Args:
        context: What is looked at.
        project_ids: Projects to look at; None for every connected one.
    """
    yield from _disk(context)
    yield _torch()
    yield _own_address(context)
    client: Client | None = None
    try:
        client = context.client(next(iter(context.store.projects.active()), None))
    except BackendError as error:
        yield Finding(error.code, "error", "settings", str(error), error.hint)
    else:
        finding = _label_studio(client)
        yield finding
        if finding.level == "error":
            client = None
    for project_id in project_ids or [project.id for project in context.store.projects.active()]:
        yield from _project(context, project_id, reachable=client is not None)


def _ok(code: str, subject: str, message: str) -> Finding:
    return Finding(code, "ok", subject, message)


def _disk(context: Context) -> Iterator[Finding]:
    for name, folder in (("DATA_DIR", context.settings.data_dir), ("MODEL_DIR", context.settings.models_path)):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            yield Finding(
                "disk", "error", name, f"{folder} cannot be written.", f"Give this user write access to {name}."
            )
            continue
        free = shutil.disk_usage(folder).free
        if free < MIN_FREE_BYTES:
            yield Finding(
                "disk", "error", name, f"{free / 2**20:.0f} MiB are free in {folder}.", "Make room: 1 GiB at least."
            )
        else:
            yield _ok("disk", name, f"{folder} can be written, {free / 2**30:.0f} GiB free")


def _torch() -> Finding:
    """Import the pair in a process of its own: a mismatch shows at import only, and this one stays small."""
    code = "import torch, torchvision; print(torch.__version__, torchvision.__version__, torch.cuda.is_available())"
    tried = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    if tried.returncode != 0:
        last = tried.stderr.strip().splitlines()[-1:] or ["no message"]
        return Finding(
            "torch-pair",
            "error",
            "torch",
            f"torch and torchvision do not load together: {last[0]}",
            "Reinstall both at once, from the same source: pip install --force-reinstall torch torchvision.",
        )
    torch, torchvision, cuda = tried.stdout.split()
    return _ok(
        "torch-pair", "torch", f"torch {torch} and torchvision {torchvision}, GPU {'yes' if cuda == 'True' else 'no'}"
    )


def _own_address(context: Context) -> Finding:
    url = context.settings.public_url
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=PROBE_S) as answer:  # noqa: S310 - our own address
            body = json.load(answer)
    except (urllib.error.URLError, OSError, ValueError) as error:
        return Finding(
            "backend-address",
            "error",
            url,
            f"This server does not answer at {url}/health: {error}",
            "Start it with `ls-backend start`, or set LSB_BACKEND_URL to the address at which Label Studio reaches it.",
        )
    if not isinstance(body, dict) or body.get("model_class") != "ls_backend":
        return Finding(
            "backend-address", "error", url, f"Something else answers at {url}/health.", "Set PORT or LSB_BACKEND_URL."
        )
    return _ok("backend-address", url, "this server answers")


def _label_studio(client: Client) -> Finding:
    try:
        version = client.version()
        user = client.whoami()
    except Unreachable as error:
        return Finding(error.code, "error", "Label Studio", str(error), error.hint)
    except Rejected as error:
        return Finding(
            "token",
            "error",
            "LABEL_STUDIO_API_KEY",
            str(error),
            "Make a new token in Label Studio under Account & Settings; legacy tokens work only where the organization "
            "allows them.",
        )
    return _ok("label-studio", client.url, f"Label Studio {version} answers, signed in as {user.get('email')}")


def _project(context: Context, project_id: int, *, reachable: bool) -> Iterator[Finding]:
    subject = f"project {project_id}"
    project = context.store.projects.get(project_id)
    if project is None:
        yield Finding(
            "not-connected",
            "error",
            subject,
            f"Project {project_id} is not connected to this backend.",
            f"Run `ls-backend connect --project {project_id}`.",
        )
        return
    for problem in context.store.problems.open(project_id):
        yield problem.finding
    if not reachable:
        return
    client = context.client(project)
    try:
        state = client.project(project_id)
        yield from _order(project, state)
        yield from _connection(context, project, client)
    except (Unreachable, Rejected) as error:
        yield Finding(error.code, "error", subject, str(error), error.hint)


def _order(project: Project, state: ProjectState) -> Iterator[Finding]:
    """Look at everything that decides whether Label Studio serves our order."""
    subject = f"project {project.id}"
    try:
        schema = label_config.parse(state.label_config)
    except ConfigUnsupported as error:
        yield Finding(error.code, "error", subject, str(error), error.hint)
        return
    learnt = ", ".join(f"{control.name} with {len(control.classes)} classes" for control in schema.controls)
    yield _ok("label-config", subject, f"learns {learnt}")
    if state.sampling == ORDERED_SAMPLING:
        yield _ok("sampling-mode", subject, "serves ascending scores")
    else:
        yield Finding(
            "sampling-mode",
            "error",
            subject,
            f"The sampling mode is '{state.sampling}'; our order needs '{ORDERED_SAMPLING}', which no settings page "
            "offers.",
            f"Run `ls-backend connect --project {project.id}`.",
        )
    window = project.window_version
    if window is None:
        yield Finding(
            "no-window",
            "warning",
            subject,
            "No order has been published yet.",
            "Wait for the images to be read; if it lasts, look at the worker's log.",
        )
    elif state.model_version == window:
        yield _ok("model-version", subject, f"window {window} is in force")
    else:
        yield Finding(
            "model-version",
            "error",
            subject,
            f"The model version is '{state.model_version}', not our window {window}; tasks come in another order.",
            "It is put back within a minute unless manage_queue is false.",
        )
    if state.maximum_annotations > 1:
        yield Finding(
            "overlap",
            "warning",
            subject,
            f"Each task wants {state.maximum_annotations} annotations; started tasks come first, in random order.",
            "Set annotations per task to 1 where the order matters.",
        )
    if not state.show_collab_predictions:
        yield Finding(
            "predictions-off",
            "error",
            subject,
            "'Use predictions to prelabel tasks' is off, so the order is random.",
            "Turn it on under Settings, Annotation; set prelabel to false for an order without pre-annotation.",
        )


def _connection(context: Context, project: Project, client: Client) -> Iterator[Finding]:
    """Look at both directions between Label Studio and this server."""
    subject = f"project {project.id}"
    url = context.settings.public_url
    rows = client.ml_backends(project.id)
    ours = next((item for item in rows if item.url.rstrip("/") == url), None)
    hooks = client.webhooks(project.id)
    hook = next((item for item in hooks if item.url == f"{url}/webhook"), None)
    connect = f"Run `ls-backend connect --project {project.id}`."
    if ours is None:
        yield Finding(
            "ml-backend-missing",
            "error",
            subject,
            f"No ML backend of the project has the address {url}; found {[item.url for item in rows]}.",
            connect,
        )
    elif ours.state != "CO":
        yield Finding(
            "ml-backend-state",
            "error",
            subject,
            f"Label Studio cannot reach {url}: {ours.error_message or 'disconnected'}",
            "From inside a container localhost is the container itself: set LSB_BACKEND_URL to an address Label Studio "
            "can reach, and start Label Studio with ML_BLOCK_LOCAL_IP=false for private addresses.",
        )
    else:
        yield _ok("ml-backend", subject, f"Label Studio reaches {url}")
    if hook is None:
        half = (
            " Label Studio blocks private addresses for webhooks while SSRF_PROTECTION_ENABLED is on." if ours else ""
        )
        yield Finding("webhook-missing", "error", subject, f"There is no webhook to {url}/webhook.{half}", connect)
    elif not (hook.is_active and hook.send_payload and hook.send_for_all_actions):
        yield Finding("webhook-narrowed", "error", subject, "The webhook is off or sends only some events.", connect)
    elif project.webhook_secret and hook.headers.get(SECRET_HEADER) != project.webhook_secret:
        yield Finding("webhook-secret", "error", subject, "The webhook lacks our secret header.", connect)
    else:
        yield _ok("webhook", subject, "events are sent here")
