"""Labelled images as they were when a training began, in a folder.

A training that is killed goes on with the same images and labels: with others its optimiser and its random numbers
would mean something else. So they are copied, scaled down, into two files; the index is written last and by renaming,
so that a snapshot is there completely or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ls_backend.domain import Annotation, Control, Finding
from ls_backend.engine import test_set
from ls_backend.engine.context import Context
from ls_backend.engine.embed_pool import READERS, report_unreadable
from ls_backend.engine.learners import Learner, Picture, Truth
from ls_backend.errors import ImageUnreadable, RegionUnusable, StoreError, Unreachable
from ls_backend.labelstudio.images import Downloader
from ls_backend.labelstudio.label_config import standing
from ls_backend.store import Project

_ARRAYS = "arrays.bin"
_INDEX = "index.json"
_AT_ONCE = 4 * READERS  # images in memory at their full size, at most

_FEW = 3  # images that are damaged say nothing about a server

Told = Callable[[int, int], bool]
"""(images read, of how many) -> whether to go on."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an array lies in the file."""

    at: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Labelled images; what `vision.deep` calls examples.

    Attributes:
        task_ids: (n,) int64.
        holdout: (n,) bool, those to measure on.
        classes: Labels of the control when it was taken.
        digest: SHA-256 over the tasks, their regions and what of them is measured on.
    """

    task_ids: NDArray[np.int64]
    holdout: NDArray[np.bool_]
    classes: tuple[str, ...]
    digest: str
    _places: Sequence[Mapping[str, _Place]]
    _data: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.task_ids)

    @property
    def learn(self) -> NDArray[np.int64]:
        """Indices of the images to learn from."""
        return np.flatnonzero(~self.holdout)

    @property
    def measured(self) -> NDArray[np.int64]:
        """Indices of the images to measure on."""
        return np.flatnonzero(self.holdout)

    def image(self, i: int) -> NDArray[np.uint8]:
        """Return image i: (h, w, 3) uint8 upright RGB."""
        return self._array(self._places[i]["image"])

    def boxes(self, i: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return (b, 4) boxes of image i in its pixels, and their (b,) classes."""
        truth = self.truth(i)
        return truth["boxes"], truth["classes"]

    def class_map(self, i: int) -> NDArray[np.uint8]:
        """Return the (h, w) class map of image i."""
        return self.truth(i)["class_map"]

    def truth(self, i: int) -> Truth:
        """Return what is in image i."""
        return {name: self._array(place) for name, place in self._places[i].items() if name != "image"}

    def shows_something(self) -> bool:
        """Whether there is a region in any of the images to learn from."""
        return any(array.any() for i in self.learn for array in self.truth(int(i)).values())

    def _array(self, place: _Place) -> NDArray[Any]:
        kind = np.dtype(place.dtype)
        size = int(np.prod(place.shape)) * kind.itemsize
        return self._data[place.at : place.at + size].view(kind).reshape(place.shape)


def take(
    context: Context, project: Project, control: Control, learner: Learner, folder: Path, told: Told
) -> Snapshot | None:
    """Read every labelled task of a control, or find the snapshot that a killed process has left.

    Of several annotations of a task the one that stands counts: the latest ground truth, else the latest. Images that
    cannot be read and regions that cannot be used are reported, task by task, and left out.

    Args:
        context: Store and images.
        project: Whose tasks.
        control: Whose regions.
        learner: Reads them.
        folder: Where the snapshot lies, or will.
        told: Told how far it is.

    Returns:
        The snapshot; None when `told` said to stop.

    Raises:
        Unreachable: Label Studio does not answer, or most images cannot be read: to go on without them would be wrong.
        StoreError: The disk refuses.
    """
    found = load(folder)
    if found is not None and found.classes == control.classes:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _INDEX).unlink(missing_ok=True)  # of other classes: the label config has changed since
        return _taken(context, project, control, learner, folder, told)
    except OSError as error:
        raise StoreError(f"Labelled images cannot be copied to {folder}: {error}.") from error


def _taken(
    context: Context, project: Project, control: Control, learner: Learner, folder: Path, told: Told
) -> Snapshot | None:
    rows = _labelled(context, project)
    answered = {row.task_id: row.annotation for row in rows}
    index: list[dict[str, Any]] = []
    broken: dict[int, Sequence[str]] = {}
    failures: dict[int, ImageUnreadable] = {}
    with (folder / _ARRAYS).open("wb") as file:
        for done, (row, read) in enumerate(_read_all(context, project, control, learner, rows), start=1):
            if isinstance(read, ImageUnreadable):
                failures[row.task_id] = read
            else:
                image, truth, problems = read
                places = {name: _append(file, array) for name, array in {"image": image, **truth}.items()}
                index.append({"task": row.task_id, "holdout": row.holdout, "places": places})
                broken[row.task_id] = problems
            if not told(done, len(rows)):
                return None
        file.flush()
        os.fsync(file.fileno())
    if len(failures) > max(_FEW, len(rows) // 2):
        raise Unreachable(
            f"{len(failures)} of {len(rows)} images of annotated tasks cannot be read now, among them: "
            f"{next(iter(failures.values()))}",
            hint="Check that the images' server runs and lets this one in; the training waits for it.",
        )
    _report(context, project.id, control, broken, failures)
    digest = _digest(control, [answered[item["task"]] for item in index], index)
    partial = folder / f".{_INDEX}"
    partial.write_text(json.dumps({"digest": digest, "classes": control.classes, "images": index}))
    partial.replace(folder / _INDEX)
    return load(folder)


def load(folder: Path) -> Snapshot | None:
    """Return the snapshot in a folder, None when there is no complete one."""
    try:
        stored = json.loads((folder / _INDEX).read_text())
    except (OSError, ValueError):
        return None
    images = stored["images"]
    path = folder / _ARRAYS
    empty = path.stat().st_size == 0
    return Snapshot(
        task_ids=np.array([item["task"] for item in images], dtype=np.int64),
        holdout=np.array([item["holdout"] for item in images], dtype=np.bool_),
        classes=tuple(stored["classes"]),
        digest=stored["digest"],
        _places=[
            {name: _Place(at, tuple(shape), kind) for name, (at, shape, kind) in item["places"].items()}
            for item in images
        ],
        _data=np.zeros(0, np.uint8) if empty else np.memmap(path, dtype=np.uint8, mode="c"),
    )


@dataclass(frozen=True, slots=True)
class _Row:
    """A labelled task, the annotation that stands for it, and whether it is measured on."""

    task_id: int
    image: str
    annotation: Annotation
    holdout: bool


def _labelled(context: Context, project: Project) -> list[_Row]:
    """Return the annotated tasks in the order in which they were labelled: one without regions says "nothing here"."""
    tasks = context.store.tasks
    locked = test_set.members(context, project)
    labelled = tasks.labelled(project.id)
    ids = [task.task_id for task in labelled]
    annotations = tasks.annotations(project.id, ids)
    images = {row.task_id: row for row in tasks.images(project.id, ids)}
    rows = []
    for task in labelled:
        annotation = standing(annotations.get(task.task_id, ()))
        row = images.get(task.task_id)
        if annotation is None or row is None or row.image_error_at is not None:
            continue  # what was unreadable an hour ago is reported already, and tried again by the embed worker
        holdout = task.task_id in locked if locked else task.holdout
        rows.append(_Row(task.task_id, row.image or "", annotation, holdout))
    return rows


_Read = tuple[NDArray[np.uint8], Truth, tuple[str, ...]]


def _read_all(
    context: Context, project: Project, control: Control, learner: Learner, rows: Sequence[_Row]
) -> Iterator[tuple[_Row, _Read | ImageUnreadable]]:
    settings = context.project_settings(project)
    limits = (settings.training.image_px, context.settings.image_max_pixels)
    with context.downloader(project) as downloader, ThreadPoolExecutor(READERS) as readers:
        for start in range(0, len(rows), _AT_ONCE):
            some = rows[start : start + _AT_ONCE]
            jobs = [readers.submit(_read, downloader, row, control, learner, *limits) for row in some]
            for row, job in zip(some, jobs, strict=True):
                try:
                    yield row, job.result()
                except ImageUnreadable as error:
                    yield row, error


def _read(
    downloader: Downloader, row: _Row, control: Control, learner: Learner, image_px: int, max_pixels: int
) -> _Read:
    image = read_picture(downloader, row.task_id, row.image, image_px=image_px, max_pixels=max_pixels).pixels
    height, width = image.shape[:2]
    truth, problems = learner.read(control, row.annotation.result, width, height)
    return image, truth, problems


def read_picture(downloader: Downloader, task_id: int, reference: str, *, image_px: int, max_pixels: int) -> Picture:
    """Fetch the image of a task, decode it and scale it down until neither side is longer than `image_px`.

    Raises:
        ImageUnreadable: It cannot be had or is damaged.
        Unreachable: Label Studio does not answer.
    """
    from ls_backend.vision import images  # noqa: PLC0415 - the server must not import vision

    _, data = downloader.fetch(reference, task_id=task_id)
    try:
        pixels = images.decode(data, max_pixels=max_pixels)
    except ImageUnreadable as error:
        raise ImageUnreadable(f"Task {task_id}: {error}", hint=error.hint, task=task_id) from error
    return Picture(images.scaled_down(pixels, image_px), pixels.shape[1], pixels.shape[0])


def _append(file: BinaryIO, array: NDArray[Any]) -> tuple[int, tuple[int, ...], str]:
    """Write an array at a multiple of eight bytes, so that it can be read in place."""
    file.write(b"\0" * (-file.tell() % 8))
    at = file.tell()
    file.write(np.ascontiguousarray(array).tobytes())
    return at, array.shape, array.dtype.str


def _digest(control: Control, annotations: Sequence[Annotation], index: Sequence[Mapping[str, Any]]) -> str:
    told = [
        (one.task_id, item["holdout"], [region for region in one.result if region.get("from_name") == control.name])
        for one, item in zip(annotations, index, strict=True)
    ]
    text = json.dumps([control.name, control.classes, sorted(told, key=lambda row: row[0])], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _report(
    context: Context,
    project_id: int,
    control: Control,
    broken: Mapping[int, Sequence[str]],
    failures: Mapping[int, ImageUnreadable],
) -> None:
    """Report what was left out, and resolve what is well now."""
    report_unreadable(context, project_id, failures)
    problems = context.store.problems
    told = {
        item.finding.subject
        for item in problems.open(project_id)
        if item.finding.code == RegionUnusable.code and item.finding.context.get("control") == control.name
    }
    for task_id, words in broken.items():
        subject = f"task {task_id}"
        if words:
            more = f" ({len(words) - 1} more like it.)" if len(words) > 1 else ""
            message = f"Control {control.name}: {words[0]}{more}"
            about = {"control": control.name, "count": len(words)}
            finding = Finding(RegionUnusable.code, "warning", subject, message, RegionUnusable.hint, about)
            problems.report(project_id, finding)
        elif subject in told:
            problems.resolve(project_id, RegionUnusable.code, subject)
