"""Which backbone serves a project, and how another one takes its place.

Texts have one, whatever the settings say. What follows is about images.

The one in force is that of the serving model version: it embeds new images first, and ranks, refits and predicts.
When the settings name another one, that embeds the pool in the background; once it has all that can be read, a model
on it has to pass the gate, and only then it serves. Nothing of this is written down: it follows from model versions,
settings and embeddings, so it may be killed anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ls_backend.domain import Finding, ModelVersion
from ls_backend.engine.context import Context
from ls_backend.errors import BackbonePending, ConfigUnsupported, SettingsError
from ls_backend.labelstudio import label_config
from ls_backend.settings import DEFAULT_BACKBONE, TEXT_BACKBONE
from ls_backend.store import Project

if TYPE_CHECKING:
    from ls_backend.engine.context import Embedder

MOST = 0.95
"""Share of the images that must be readable a second time before another backbone takes over."""

TRIED_AGAIN = 1.25
"""A backbone whose model was refused is tried again with so many times the labels."""

_CODES = ("backbone-change", "backbone-pending", "backbone-refused", "backbone-unavailable")


@dataclass(frozen=True)
class Coverage:
    """What a backbone has embedded of a project's images that were read.

    Attributes:
        read: Tasks whose image was read once.
        lacking: Tasks that are still to be embedded, by id.
        gone: Tasks that lack an embedding because their image could not be read again.
    """

    read: int
    lacking: tuple[int, ...]
    gone: int

    @property
    def embedded(self) -> int:
        """Tasks that have an embedding."""
        return self.read - len(self.lacking) - self.gone

    @property
    def complete(self) -> bool:
        """Whether the project can go over: everything that can be read is embedded, and that is nearly everything."""
        return self.read > 0 and not self.lacking and self.embedded >= MOST * self.read


def wanted_by(context: Context, project: Project) -> str:
    """Return the backbone that is to serve: that of the settings, or the one for texts."""
    try:
        schema = label_config.parse(project.label_config or "")
    except ConfigUnsupported:
        schema = None
    if schema is not None and schema.modality == "text":
        return TEXT_BACKBONE
    return context.project_settings(project).backbone


def in_force(context: Context, project: Project) -> str:
    """Return the backbone whose embeddings rank, refit and predict.

    It is that of the serving model version. Without a model, or when that backbone is lost, it is the wanted one,
    unless it cannot be had or the default one has embedded more so far.

    Raises:
        BackbonePending: The one in force has lost its weights, and they are being downloaded.
    """
    wanted = wanted_by(context, project)
    if wanted == TEXT_BACKBONE:
        return wanted
    serving = context.store.versions.in_force(project.id)
    if serving is not None and serving.backbone == TEXT_BACKBONE:  # what was labelled were texts, and are images now
        serving = None
    if serving is not None and (serving.backbone == wanted or _loaded(context, project, serving.backbone, wanted)):
        return serving.backbone
    if wanted == DEFAULT_BACKBONE:
        return wanted
    mine, default = (coverage(context, project, name) for name in (wanted, DEFAULT_BACKBONE))
    if mine is None or (default is not None and default.embedded > mine.embedded and not mine.complete):
        return DEFAULT_BACKBONE
    return wanted


def changing(context: Context, project: Project) -> bool:
    """Say, at no cost, whether the settings name another backbone than the one that serves."""
    serving = context.store.versions.in_force(project.id)
    present = DEFAULT_BACKBONE if serving is None else serving.backbone
    wanted = wanted_by(context, project)
    return wanted not in {present, TEXT_BACKBONE}


def successor(context: Context, project: Project, serving: str) -> str | None:
    """Return the backbone that may take over now; None while there is none, or a version is pinned.

    Args:
        context: Store and embeddings.
        project: Which project.
        serving: The backbone in force.
    """
    wanted = wanted_by(context, project)
    if wanted == serving:
        settle(context, project)
        return None
    if project.pinned_version is not None:
        return None
    last = context.store.versions.latest(project.id, wanted)
    if last is not None and last.state == "rejected":
        labels = context.store.tasks.counts(project.id).labelled
        if labels < TRIED_AGAIN * last.n_labels:
            return None
    covered = coverage(context, project, wanted)
    return wanted if covered is not None and covered.complete else None


def coverage(context: Context, project: Project, name: str) -> Coverage | None:
    """Count what a backbone has embedded; None while it cannot be had, which is said as a problem."""
    try:
        backbone = _loaded(context, project, name, "The present one")
    except BackbonePending as error:
        finding = Finding(error.code, "warning", f"backbone {name}", str(error), error.hint)
        context.store.problems.report(project.id, finding)
        return None
    if backbone is None:
        return None
    known = context.vectors.known(backbone.identity, backbone.dim)
    table = context.store.tasks.rows(project.id)
    read = [
        (task_id, content in known)
        for task_id, content in zip(table.task_id.tolist(), table.content_hash.tolist(), strict=True)
        if content is not None
    ]
    failed = context.store.tasks.failed_again(project.id)
    lacking = [task_id for task_id, found in read if not found]
    due = tuple(task_id for task_id in lacking if task_id not in failed)
    return Coverage(len(read), due, len(lacking) - len(due))


def tell(context: Context, project: Project, wanted: str, serving: str) -> Coverage:
    """Say how far a change has come."""
    covered = coverage(context, project, wanted)
    assert covered is not None, "it has just embedded something"
    message = f"{wanted} has embedded {covered.embedded} of {covered.read} images; {serving} serves until it has all."
    remedy = "Nothing; it goes on by itself."
    if project.pinned_version is not None:
        remedy = f"It waits for the pinned version {project.pinned_version} to be released by `ls-backend rollback`."
    if not covered.lacking and not covered.complete:
        message += f" The other {covered.gone} could not be read again."
        remedy = "Look at the problems of these tasks, or set the backbone back."
    context.store.problems.report(
        project.id, Finding("backbone-change", "warning", f"backbone {wanted}", message, remedy)
    )
    return covered


def refuse(context: Context, project: Project, version: ModelVersion, serving: str) -> None:
    """Say that the gate has refused the model on another backbone."""
    context.store.problems.report(
        project.id,
        Finding(
            "backbone-refused",
            "warning",
            f"backbone {version.backbone}",
            f"On the hold-out the model {version.version_id} on {version.backbone} is worse than the one in force; "
            f"{serving} goes on serving.",
            f"Set backbone to {serving}, or go on labelling: it is tried again with a quarter more labels.",
        ),
    )
    context.store.problems.resolve(project.id, "backbone-change")


def _loaded(context: Context, project: Project, name: str, other: str) -> Embedder | None:
    subject = f"backbone {name}"
    try:
        backbone = context.embedder(name)
    except SettingsError as error:
        finding = Finding("backbone-unavailable", "error", subject, f"{error} {other} goes on serving.", error.hint)
        context.store.problems.report(project.id, finding)
        settle(context, project, subject, ("backbone-pending",))
        return None
    settle(context, project, subject, ("backbone-pending", "backbone-unavailable"))
    return backbone


def settle(context: Context, project: Project, subject: str | None = None, codes: tuple[str, ...] = _CODES) -> None:
    """Close the problems of a change that are over: of one backbone, or of all."""
    for problem in context.store.problems.open(project.id):
        finding = problem.finding
        if finding.code in codes and subject in {None, finding.subject}:
            context.store.problems.resolve(project.id, finding.code, finding.subject)
