"""Every known trap looked at, each with its remedy.

`examine` looks, `keep` makes problems of what was found. A trap that reconcile knows too has the same code and subject
here, so that it is one problem.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from urllib.parse import urlsplit

from ls_backend.domain import ORDERED_SAMPLING, Finding, ProjectState
from ls_backend.engine.context import Context
from ls_backend.errors import BackendError, ConfigUnsupported, ImageUnreadable, Rejected, Unreachable
from ls_backend.labelstudio import label_config
from ls_backend.labelstudio.client import SECRET_HEADER, Client
from ls_backend.store import Project
from ls_backend.store.runs import RUNS_KEPT

MIN_FREE_BYTES = 2**30
PROBE_S = 3.0
SILENCE = timedelta(seconds=60)
"""How much later than the last event an annotation may be: clocks differ, and a read may come before the event."""

_FOUND_BY = {"found_by": "doctor"}
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})  # noqa: S104 - looked for, not listened on


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found out about the deployment, or about one project.

    Attributes:
        project_id: None for the deployment.
        findings: Of this look, good and bad.
        complete: Whether all could be looked at; only then is over what was not found again.
        known: Other open problems, found by the work itself.
    """

    project_id: int | None
    findings: tuple[Finding, ...]
    complete: bool = True
    known: tuple[Finding, ...] = field(default=())


def examine(context: Context, project_ids: list[int] | None = None) -> Iterator[Looked]:
    """Look at the deployment, then at each project.

    Args:
        context: What is looked at.
        project_ids: Projects to look at; None for every connected one.
    """
    reachable, about_label_studio = _label_studio(context)
    around = (*_disk(context), _torch(), _own_address(context), *_local_address(context), about_label_studio)
    yield _with_known(context, Looked(None, around))
    for project_id in project_ids or [project.id for project in context.store.projects.active()]:
        yield _with_known(context, _project(context, project_id, reachable=reachable))


def keep(context: Context, looks: Iterable[Looked]) -> None:
    """Open a problem for everything that is wrong, and close those of earlier looks that are over.

    Problems found by the work itself are left to it: it shows for a while what it has put right.
    """
    problems = context.store.problems
    by_scope: dict[int | None, list[Looked]] = {}
    for look in looks:
        by_scope.setdefault(look.project_id, []).append(look)
    for project_id, some in by_scope.items():
        wrong = [finding for look in some for finding in look.findings if finding.level != "ok"]
        for finding in wrong:
            problems.report(project_id, replace(finding, context={**finding.context, **_FOUND_BY}))
        if all(look.complete for look in some):
            _resolve_others(context, project_id, {(finding.code, finding.subject) for finding in wrong})


def _resolve_others(context: Context, project_id: int | None, wrong: set[tuple[str, str]]) -> None:
    for problem in context.store.problems.open(project_id):
        found = problem.finding
        if _is_ours(found.context) and (found.code, found.subject) not in wrong:
            context.store.problems.resolve(project_id, found.code, found.subject)


def _is_ours(context: Mapping[str, object]) -> bool:
    return context.items() >= _FOUND_BY.items()


def _with_known(context: Context, look: Looked) -> Looked:
    """Add the open problems that this look does not speak of."""
    told = {finding.code for finding in look.findings}
    known = [problem.finding for problem in context.store.problems.open(look.project_id)]
    rest = tuple(found for found in known if not _is_ours(found.context) and (found.code not in told))
    return replace(look, known=rest)


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


def _local_address(context: Context) -> Iterator[Finding]:
    """See that Label Studio is not told to call itself: from elsewhere localhost is another machine, or container."""
    theirs = context.settings.label_studio_url
    ours = context.settings.public_url
    if theirs is None:
        return
    if urlsplit(ours).hostname in _LOCAL and urlsplit(theirs).hostname not in _LOCAL:
        yield Finding(
            "address-local",
            "warning",
            ours,
            f"Label Studio is at {theirs}, and is told to call this server at {ours}: that is Label Studio's own "
            "machine or container.",
            "Set LSB_BACKEND_URL to this server's address as Label Studio sees it, and connect the projects again.",
        )
    else:
        yield _ok("address-local", ours, f"told to Label Studio at {theirs}")


def _label_studio(context: Context) -> tuple[bool, Finding]:
    """Say whether Label Studio answers and takes our token."""
    try:
        client = context.client(next(iter(context.store.projects.active()), None))
        version = client.version()
        user = client.whoami()
    except Rejected as error:
        return False, Finding(
            "token",
            "error",
            "LABEL_STUDIO_API_KEY",
            str(error),
            "Make a new token in Label Studio under Account & Settings; legacy tokens work only where the organization "
            "allows them.",
        )
    except BackendError as error:
        return False, Finding(error.code, "error", "Label Studio", str(error), error.hint)
    return True, _ok("label-studio", client.url, f"Label Studio {version} answers, signed in as {user.get('email')}")


def _project(context: Context, project_id: int, *, reachable: bool) -> Looked:
    project = context.store.projects.get(project_id)
    if project is None:
        finding = Finding(
            "not-connected",
            "error",
            "project",
            f"Project {project_id} is not connected to this backend.",
            f"Run `ls-backend connect --project {project_id}`.",
        )
        return Looked(project_id, (finding,), complete=False)
    if not reachable:
        return Looked(project_id, (), complete=False)
    client = context.client(project)
    try:
        state = client.project(project_id)
        project = context.project(project_id)  # again: a flip may have come between
        findings = [*_order(project, state), *_habits(state), *_connection(context, project, client)]
        findings += [*_image(context, project), *_events(context, project)]
    except (Unreachable, Rejected) as error:
        return Looked(project_id, (Finding(error.code, "error", "project", str(error), error.hint),), complete=False)
    return Looked(project_id, tuple(findings))


def _order(project: Project, state: ProjectState) -> Iterator[Finding]:
    """Look at everything that decides whether Label Studio serves our order."""
    try:
        schema = label_config.parse(state.label_config)
    except ConfigUnsupported as error:
        yield Finding(error.code, "error", "labelling interface", str(error), error.hint)
        return
    learnt = ", ".join(f"{control.name} with {len(control.classes)} classes" for control in schema.controls)
    yield _ok("label-config", "labelling interface", f"learns {learnt}")
    if state.sampling == ORDERED_SAMPLING:
        yield _ok("sampling-mode", "general settings", "serves ascending scores")
    else:
        yield Finding(
            "sampling-mode",
            "error",
            "general settings",
            f"The sampling mode is '{state.sampling}'; our order needs '{ORDERED_SAMPLING}', which no settings page "
            "offers.",
            f"Run `ls-backend connect --project {project.id}`.",
        )
    window = project.window_version
    if window is None:
        yield Finding(
            "no-window",
            "warning",
            "labelling queue",
            "No order has been published yet.",
            "Wait for the images to be read; if it lasts, look at the worker's log.",
        )
    elif state.model_version in {window, project.pending_version}:
        yield _ok("model-version", "annotation settings", f"window {window} is in force")
    else:
        yield Finding(
            "model-version",
            "error",
            "annotation settings",
            f"The model version is '{state.model_version}', not our window {window}; tasks come in another order.",
            "It is put back within a minute unless manage_queue is false.",
        )
    if state.maximum_annotations > 1:
        yield Finding(
            "overlap",
            "warning",
            "annotation settings",
            f"Each task wants {state.maximum_annotations} annotations; started tasks come first, in random order.",
            "Set annotations per task to 1 where the order matters.",
        )
    if not state.show_collab_predictions:
        yield Finding(
            "predictions-off",
            "error",
            "annotation settings",
            "'Use predictions to prelabel tasks' is off, so the order is random.",
            "Turn it on under Settings, Annotation; set prelabel to false for an order without pre-annotation.",
        )


def _habits(state: ProjectState) -> Iterator[Finding]:
    """Look at switches that make Label Studio call us more than it should."""
    if state.trains_on_submit:
        yield Finding(
            "training-in-submit",
            "warning",
            "model settings",
            "'Start model training on annotation submission' is on: every submit waits for one more call to this "
            "server, which learns by itself.",
            "Switch it off under Settings, Model.",
        )
    if state.predicts_on_load:
        yield Finding(
            "predictions-on-load",
            "warning",
            "model settings",
            "'Retrieve predictions when loading a task automatically' is on: a page of the Data Manager waits for "
            "predictions of all its tasks.",
            "Switch it off; predictions of what is labelled next are there already.",
        )


def _image(context: Context, project: Project) -> Iterator[Finding]:
    """Read one image or text that waits, as the embed worker will."""
    waiting = context.store.tasks.unread(project.id, 1)
    try:
        modality = label_config.parse(project.label_config or "").modality
    except ConfigUnsupported:
        return
    if not waiting or not waiting[0].image or modality != "image":
        return
    row = waiting[0]
    try:
        context.downloader(project).fetch(row.image or "", task_id=row.task_id)
    except ImageUnreadable as error:
        yield Finding(error.code, "warning", f"task {row.task_id}", str(error), error.hint)
    else:
        yield _ok("image-unreadable", f"task {row.task_id}", "its image can be fetched")


def _events(context: Context, project: Project) -> Iterator[Finding]:
    """See that annotations are told: one that no event speaks of was found by comparing, a minute late."""
    newest = context.store.tasks.newest_annotation(project.id)
    heard = [event.received_at for event in context.store.projects.events(project.id, 1)]
    heard = heard or [run.started_at for run in context.store.runs.recent(project.id, RUNS_KEPT)[-1:]]
    if newest is None or not heard or newest <= heard[0] + SILENCE:
        return
    yield Finding(
        "webhook-silent",
        "warning",
        "webhook",
        f"An annotation of {newest:%Y-%m-%d %H:%M:%S} UTC came without an event; the last sign of "
        f"Label Studio is of {heard[0]:%Y-%m-%d %H:%M:%S}. Labels are found by comparing meanwhile.",
        "If the server was not stopped then: start Label Studio with SSRF_PROTECTION_ENABLED=false, which drops "
        "webhooks to private addresses without a word. It is settled with the next event.",
    )


def _connection(context: Context, project: Project, client: Client) -> Iterator[Finding]:
    """Look at both directions between Label Studio and this server."""
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
            "ML backend",
            f"No ML backend of the project has the address {url}; found {[item.url for item in rows]}.",
            connect,
        )
    elif ours.state != "CO":
        yield Finding(
            "ml-backend-state",
            "error",
            "ML backend",
            f"Label Studio cannot reach {url}: {ours.error_message or 'disconnected'}",
            "From inside a container localhost is the container itself: set LSB_BACKEND_URL to an address Label Studio "
            "can reach, and start Label Studio with ML_BLOCK_LOCAL_IP=false for private addresses.",
        )
    else:
        yield _ok("ml-backend", "ML backend", f"Label Studio reaches {url}")
    if ours is not None and len(rows) > 1:
        others = [item.title or item.url for item in rows if item is not ours]
        yield Finding(
            "ml-backend-several",
            "warning",
            "ML backend",
            f"The project has {len(rows)} ML backends; Label Studio asks each of them at every load of a page, and "
            f"whoever chooses {others[0]} as model version ends our order.",
            "Remove the others under Settings, Model, unless they are wanted.",
        )
    if hook is None:
        half = (
            " Label Studio blocks private addresses for webhooks while SSRF_PROTECTION_ENABLED is on." if ours else ""
        )
        yield Finding("webhook-missing", "error", "webhook", f"There is no webhook to {url}/webhook.{half}", connect)
    elif not (hook.is_active and hook.send_payload and hook.send_for_all_actions):
        yield Finding("webhook-narrowed", "error", "webhook", "The webhook is off or sends only some events.", connect)
    elif project.webhook_secret and hook.headers.get(SECRET_HEADER) != project.webhook_secret:
        yield Finding("webhook-secret", "error", "webhook", "The webhook lacks our secret header.", connect)
    else:
        yield _ok("webhook", "webhook", "events are sent here")
