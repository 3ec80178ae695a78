"""Images and texts of new tasks become embeddings, once per content and backbone."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ls_backend import logs
from ls_backend.domain import Finding, ImageFacts
from ls_backend.engine import backbones, thumbnails
from ls_backend.engine.context import Context
from ls_backend.engine.sync import image_field
from ls_backend.errors import DataError, ImageUnreadable, TextMissing
from ls_backend.labelstudio.images import Downloader
from ls_backend.settings import TEXT_BACKBONE, Settings
from ls_backend.store import Project

log = logs.get(__name__)

CHUNK = 256
"""Tasks a job embeds: a few seconds, so that a /predict waiting behind it is not late."""

CHANGE_S = 4.0
"""Seconds that a job embeds for a backbone that is to take over, whose pace nobody knows; the first of them tell it."""

FIRST = 16

READERS = 8
"""Images read at once; waiting for the network, not computing."""


@dataclass(frozen=True)
class Embedded:
    """What a chunk of embedding did.

    Attributes:
        read: Tasks whose image or text was read.
        failed: Tasks whose image or text could not be used; each has its problem.
        remaining: Whether more tasks wait.
    """

    read: int
    failed: int
    remaining: bool


@dataclass(frozen=True, eq=False)
class Decoded:
    """An image that was read for the first time: (h, w, 3) uint8 pixels, and what was measured on them."""

    pixels: NDArray[np.uint8]
    facts: ImageFacts


def embed_pool(context: Context, project_id: int) -> Embedded:
    """Embed the next chunk of tasks that have no embedding yet, for a backbone that is to take over when all have one.

    The first chunk and the last one wake the ranking, so the queue is ordered soon and ordered well.

    Raises:
        Unreachable: Label Studio does not answer; the tasks stay due.
    """
    project = context.project(project_id)
    serving = backbones.in_force(context, project)
    waiting = context.store.tasks.unread(project_id, CHUNK + 1)
    chunk = {row.task_id: row.image or "" for row in waiting[:CHUNK]}
    if not chunk:
        return _embed_change(context, project, serving)
    hashes = embed_tasks(context, project, chunk, serving)
    remaining = len(waiting) > CHUNK
    if not remaining or project.window_version is None:
        context.store.projects.bump(project_id)
    log.info("embedded", project=project_id, tasks=len(hashes), failed=len(chunk) - len(hashes), remaining=remaining)
    changing = backbones.wanted_by(context, project) != serving
    return Embedded(len(hashes), len(chunk) - len(hashes), remaining or changing)


def _embed_change(context: Context, project: Project, serving: str) -> Embedded:
    """Embed some of what the backbone that is to take over still lacks; the last of it wakes the ranking."""
    wanted = backbones.wanted_by(context, project)
    before = None if wanted == serving else backbones.coverage(context, project, wanted)
    if before is None or before.complete:
        # An update that was killed, or a reason against the change that is gone: it is looked at again.
        if before is not None and backbones.successor(context, project, serving):
            context.store.projects.bump(project.id)
        return Embedded(0, 0, remaining=False)
    started, todo, hashes = time.monotonic(), list(before.lacking), dict[int, str]()
    size = FIRST
    while todo and size > 0:
        some, todo = todo[:size], todo[size:]
        rows = context.store.tasks.images(project.id, some)
        hashes |= embed_tasks(context, project, {row.task_id: row.image or "" for row in rows}, wanted)
        spent = time.monotonic() - started
        # The rest of the time in one go, as far as the pace so far tells.
        size = min(int(len(some) * (CHANGE_S - spent) / spent), CHUNK) if size == FIRST else 0
    tried = len(before.lacking) - len(todo)
    after = backbones.tell(context, project, wanted, serving)
    if not todo and tried:
        context.store.projects.bump(project.id)
    log.info("embedded", project=project.id, backbone=wanted, tasks=len(hashes), left=len(after.lacking))
    return Embedded(len(hashes), tried - len(hashes), remaining=bool(todo))


def embed_tasks(context: Context, project: Project, images: dict[int, str], by: str) -> dict[int, str]:
    """Read, embed and store the images or texts of some tasks.

    Args:
        context: Store, embeddings, backbone.
        project: Owner of the tasks.
        images: Task id -> image reference, or text, as in the task data.
        by: Name of the backbone.

    Returns:
        Task id -> content hash, of the tasks that could be read; the others have a problem each.
    """
    if by == TEXT_BACKBONE:
        hashes, failures = _embed_texts(context, project, images)
    else:
        hashes, failures = _embed_images(context, project, images, by)
    context.store.tasks.set_content(project.id, hashes, references=images)
    _report(context, project.id, hashes, failures)
    return hashes


def _embed_texts(
    context: Context, project: Project, texts: Mapping[int, str]
) -> tuple[dict[int, str], dict[int, DataError]]:
    backbone = context.text_backbone
    known = context.vectors.known(backbone.identity, backbone.dim)
    field = image_field(project.label_config)
    hashes: dict[int, str] = {}
    fresh: dict[str, str] = {}
    failures: dict[int, DataError] = {}
    for task_id, text in texts.items():
        if not text.strip():
            failures[task_id] = TextMissing(
                f"Task {task_id} has no text: '{field}' of its data, which the labelling interface shows, is missing "
                "or empty.",
                task=task_id,
            )
            continue
        hashes[task_id] = content = hashlib.sha256(text.encode()).hexdigest()
        if content not in known:
            fresh[content] = text
    if fresh:
        context.vectors.append(backbone.identity, backbone.dim, list(fresh), backbone.embed(list(fresh.values())))
    return hashes, failures


def _embed_images(
    context: Context, project: Project, images: Mapping[int, str], by: str
) -> tuple[dict[int, str], dict[int, DataError]]:
    downloader = context.downloader(project)
    settings = context.settings
    backbone = context.backbone(by)
    embedded = context.vectors.known(backbone.identity, backbone.dim)
    known = embedded & context.store.images.known()
    hashes: dict[int, str] = {}
    fresh: dict[str, NDArray[np.uint8]] = {}
    facts: dict[str, ImageFacts] = {}
    failures: dict[int, DataError] = {}
    field = image_field(project.label_config)
    with ThreadPoolExecutor(READERS) as readers:
        jobs = {
            task_id: readers.submit(_read, downloader, settings, task_id, image, field, known)
            for task_id, image in images.items()
        }
        for task_id, job in jobs.items():
            try:
                content, decoded = job.result()
            except ImageUnreadable as error:
                failures[task_id] = error
                continue
            hashes[task_id] = content
            if decoded is not None:
                facts[content] = decoded.facts
                if content not in embedded:
                    fresh[content] = decoded.pixels
    context.store.images.put(facts)
    if fresh:
        context.vectors.append(backbone.identity, backbone.dim, list(fresh), backbone.embed(list(fresh.values())))
    return hashes, failures


def _read(
    downloader: Downloader, settings: Settings, task_id: int, image: str, field: str | None, known: set[str]
) -> tuple[str, Decoded | None]:
    """Return the content hash of an image and, unless it is known, what is in it; a thumbnail is kept on the way."""
    from ls_backend.vision import facts, images  # noqa: PLC0415 - the server must not import vision

    if not image:
        raise ImageUnreadable(
            f"Task {task_id} has no image: its data has no '{field}', the field that the labelling interface shows.",
            hint="Add the field to the task data, or delete the task.",
            task=task_id,
        )
    content, data = downloader.fetch(image, task_id=task_id)
    if content in known:
        return content, None
    try:
        pixels = images.decode(data, max_pixels=settings.image_max_pixels)
    except ImageUnreadable as error:
        raise ImageUnreadable(f"Task {task_id}: {error}", hint=error.hint, task=task_id) from error
    thumbnails.keep(settings.thumbnails_path, content, pixels)
    return content, Decoded(pixels, facts.measure(pixels, len(data)))


def report_unreadable(context: Context, project_id: int, failures: Mapping[int, DataError]) -> None:
    """Say which images or texts could not be read; their tasks leave the pool, and are tried again later."""
    if failures:
        context.store.tasks.forget_content(project_id, failures)
    _tell_unreadable(context, project_id, failures)


def _tell_unreadable(context: Context, project_id: int, failures: Mapping[int, DataError]) -> None:
    for task_id, error in failures.items():
        context.store.tasks.set_image_error(project_id, task_id, str(error))
        context.store.problems.report(
            project_id, Finding(error.code, "warning", f"task {task_id}", str(error), error.hint)
        )
        log.warning("task unreadable", project=project_id, task=task_id, reason=str(error))


def _report(context: Context, project_id: int, hashes: Iterable[int], failures: Mapping[int, DataError]) -> None:
    # What was embedded for one backbone stays in its pool, although another one cannot read it any more.
    _tell_unreadable(context, project_id, failures)
    resolved = {f"task {task_id}" for task_id in hashes}
    for problem in context.store.problems.open(project_id):
        finding = problem.finding
        if finding.code in {ImageUnreadable.code, TextMissing.code} and finding.subject in resolved:
            context.store.problems.resolve(project_id, finding.code, finding.subject)
