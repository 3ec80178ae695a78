"""Tasks whose label is known: those of a project, or a folder of images for each class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ls_backend.engine import backbones
from ls_backend.engine.context import Context
from ls_backend.errors import ConfigUnsupported, ImageUnreadable, SettingsError
from ls_backend.labelstudio import label_config
from ls_backend.settings import DEFAULT_BACKBONE, Settings
from ls_backend.strategies import Plan

if TYPE_CHECKING:
    from ls_backend.vision.backbones import Backbone

CHUNK = 256  # images decoded at once: bounds the memory
READERS = 4

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Known:
    """Tasks whose label is known.

    Attributes:
        title: What they are called.
        raw: (n, d) float32 raw embeddings.
        classes: (n,) int64 indices into `class_names`.
        class_names: c labels.
        metadata: Field name to (n,) values.
        unreadable: Images that were left out, and why.
    """

    title: str
    raw: NDArray[np.float32]
    classes: NDArray[np.int64]
    class_names: tuple[str, ...]
    metadata: Mapping[str, NDArray[np.object_]] = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()


def of_project(context: Context, project_id: int, plans: Iterable[Plan]) -> Known:
    """Gather the labelled tasks of a connected project that have an embedding.

    Nothing is read from Label Studio and nothing is written. The labels are those the labelling queue has asked for so
    far, so a random order of them is not a random order of all images.

    Args:
        context: Store and embeddings.
        project_id: Which project.
        plans: The fields that their metadata rules name are gathered, too.

    Raises:
        SettingsError: If it was never connected.
        ConfigUnsupported: If its label config has nothing to learn, or more than one label for a task.
    """
    project = context.project(project_id)
    schema = label_config.parse(project.label_config or "")
    if not schema.is_one_choice:
        raise ConfigUnsupported(
            f"Project {project_id} asks for {', '.join(schema.classes[:5])}, of which several may hold at once; a "
            "back-test needs one label for each task.",
            hint="Back-test on a project with one single-choice Choices tag, or on a folder of images by class.",
        )
    table = context.store.tasks.rows(project_id)
    index = {label: i for i, label in enumerate(schema.classes)}
    classes = np.array([index.get(label, -1) for label in table.label], dtype=np.int64)
    read = np.array([value is not None for value in table.content_hash], dtype=np.bool_)
    rows = np.flatnonzero((classes >= 0) & read)
    loaded = context.load_vectors(backbones.in_force(context, project), table.content_hash[rows].tolist())
    rows = rows[loaded.found]
    fields = {rule.field for plan in plans for rule in plan.objectives.metadata}
    columns = context.store.tasks.columns(project_id, table.task_id[rows].tolist(), fields)
    return Known(
        title=project.title or f"project {project_id}",
        raw=loaded.vectors[loaded.found],
        classes=classes[rows],
        class_names=schema.classes,
        metadata={name: column for name, column in columns.items() if any(value is not None for value in column)},
    )


def of_folder(settings: Settings, folder: Path, *, say: Say, backbone: str = DEFAULT_BACKBONE) -> Known:
    """Embed a folder of images: each sub-folder is a class, its name the label. Needs no Label Studio.

    Args:
        settings: Device, folder of checkpoints and largest image.
        folder: Holds the sub-folders; images may lie deeper.
        say: Told how far it is.
        backbone: Network that makes the embeddings.

    Returns:
        The images that can be read; the others are named in `unreadable`. Hidden files are left alone.

    Raises:
        SettingsError: If there is no such folder, or it has no sub-folders with files.
    """
    from ls_backend.vision import backbones  # noqa: PLC0415 - torch

    if not folder.is_dir():
        raise SettingsError(
            f"{folder} is not a folder; expected one with a sub-folder of images for each class.",
            hint="Correct the path.",
        )
    files = {
        below.name: found
        for below in sorted(folder.iterdir())
        if below.is_dir() and not below.name.startswith(".") and (found := list(_files(below)))
    }
    if not files:
        raise SettingsError(
            f"{folder} has no sub-folders with files; expected a sub-folder of images for each class.",
            hint="Sort the images into one folder for each class, named after it.",
        )
    network = backbones.load(backbone, weights_dir=settings.weights_dir, device=settings.device)
    paths = [path for found in files.values() for path in found]
    classes = np.repeat(np.arange(len(files)), [len(found) for found in files.values()])
    raw, good, unreadable = _embedded(network, paths, settings.image_max_pixels, say)
    return Known(folder.name or str(folder), raw, classes[good], tuple(files), unreadable=tuple(unreadable))


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            yield path


def _embedded(
    network: Backbone, paths: Sequence[Path], max_pixels: int, say: Say
) -> tuple[NDArray[np.float32], NDArray[np.bool_], list[str]]:
    """Return raw embeddings (g, d) of the readable files, which those are (n,), and what is wrong with the others."""
    from ls_backend.vision import images  # noqa: PLC0415 - torch

    def read(path: Path) -> NDArray[np.uint8] | str:
        try:
            return images.decode(path.read_bytes(), max_pixels=max_pixels)
        except (ImageUnreadable, OSError) as error:
            return f"{path}: {error}"

    raw, good, unreadable = [], np.zeros(len(paths), dtype=np.bool_), []
    with ThreadPoolExecutor(READERS) as readers:
        for start in range(0, len(paths), CHUNK):
            pixels = list(readers.map(read, paths[start : start + CHUNK]))
            good[start : start + CHUNK] = [not isinstance(item, str) for item in pixels]
            unreadable += [item for item in pixels if isinstance(item, str)]
            raw.append(network.embed([item for item in pixels if not isinstance(item, str)]))
            say(f"{min(start + CHUNK, len(paths))} of {len(paths)} images read and embedded")
    return np.concatenate(raw), good, unreadable
