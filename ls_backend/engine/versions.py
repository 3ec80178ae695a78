"""The model versions of a project as people see them: listed, and two side by side. From the records alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ls_backend.domain import ModelVersion, plain
from ls_backend.engine import progress
from ls_backend.errors import SettingsError
from ls_backend.store import DeepVersion, Project, Store

_LESS_IS_BETTER = frozenset({"log_loss", "ece"})
_NAMED = 10  # versions in a message


@dataclass(frozen=True, slots=True)
class Listing:
    """The model versions of a project.

    Attributes:
        project_id: Whose they are.
        in_force: The one that predicts; None before the first.
        pinned: The one that was put in force by hand; None while the gate decides.
        versions: Heads, newest first.
        deep_versions: Of single controls, newest first.
    """

    project_id: int
    in_force: str | None
    pinned: str | None
    versions: tuple[ModelVersion, ...]
    deep_versions: tuple[DeepVersion, ...]

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "project": self.project_id,
            "in_force": self.in_force,
            "pinned": self.pinned,
            "versions": [plain(item) for item in self.versions],
            "deep_versions": [plain(item) for item in self.deep_versions],
        }


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that was measured of two versions.

    Attributes:
        name: "accuracy", "balanced_accuracy", "log_loss" or "ece"; of deep versions theirs, with labels for numbers.
        first: Of the first version; None where it was not measured.
        second: Of the second.
        first_interval: (low, high) of 95 %; None for what is no share of tasks.
        second_interval: Likewise.
        difference: Second less first; None where one lacks it.
        less_is_better: Whether a negative difference is an improvement.
    """

    name: str
    first: float | None
    second: float | None
    first_interval: tuple[float, float] | None
    second_interval: tuple[float, float] | None
    difference: float | None
    less_is_better: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two versions side by side.

    Attributes:
        first: One of them.
        second: The other; both are heads, or deep versions of one control.
        figures: What was measured of either.
        same_tasks: Whether both were measured on the same tasks.
        note: How to read the differences, in words.
    """

    first: ModelVersion | DeepVersion
    second: ModelVersion | DeepVersion
    figures: tuple[Figure, ...]
    same_tasks: bool
    note: str


def listed(store: Store, project: Project, limit: int | None = None) -> Listing:
    """Return the model versions of a project.

    Args:
        store: Records.
        project: Whose versions.
        limit: The newest so many of each list; None for all.
    """
    serving = store.versions.in_force(project.id)
    return Listing(
        project_id=project.id,
        in_force=serving.version_id if serving else None,
        pinned=project.pinned_version,
        versions=tuple(store.versions.list(project.id, limit)),
        deep_versions=tuple(store.deep_versions.list(project.id, limit=limit)),
    )


def compare(store: Store, project_id: int, first: str, second: str) -> Comparison:
    """Put two versions side by side.

    Args:
        store: Records.
        project_id: Whose versions.
        first: Id of one.
        second: Id of another.

    Raises:
        SettingsError: There is no such version, or they do different things.
    """
    one, other = _named(store, project_id, first), _named(store, project_id, second)
    if _does(one) != _does(other):
        raise SettingsError(
            f"{first} and {second} do different things: {_does(one)} and {_does(other)}.",
            hint="Choose two heads, or two deep versions of one control.",
        )
    same = _same_tasks(one, other)
    names = dict.fromkeys([*_measured(one), *_measured(other)])
    return Comparison(
        one, other, tuple(_figure(name, one, other) for name in names), same, _note(one, other, same=same)
    )


def _named(store: Store, project_id: int, version_id: str) -> ModelVersion | DeepVersion:
    found = store.versions.get(project_id, version_id) or store.deep_versions.get(project_id, version_id)
    if found is None:
        raise unknown(store, project_id, version_id)
    return found


def unknown(store: Store, project_id: int, version_id: str) -> SettingsError:
    """Return what to raise about a version that is none of a project."""
    newest: list[ModelVersion | DeepVersion] = [
        *store.versions.list(project_id, _NAMED),
        *store.deep_versions.list(project_id, limit=_NAMED),
    ]
    return SettingsError(
        f"{version_id!r} is no model version of project {project_id}; the newest are "
        f"{', '.join(item.version_id for item in newest[:_NAMED]) or 'none'}.",
        hint=f"List them with `ls-backend models --project {project_id}`.",
    )


def _does(version: ModelVersion | DeepVersion) -> str:
    return f"deep version of {version.control}" if isinstance(version, DeepVersion) else "heads"


def _measured(version: ModelVersion | DeepVersion) -> dict[str, float]:
    """Return what was measured, by name; the numbers of labels in names of deep versions become the labels."""
    if isinstance(version, ModelVersion):
        metrics = version.metrics
        found = {
            "accuracy": metrics.accuracy,
            "balanced_accuracy": metrics.balanced_accuracy,
            "log_loss": metrics.log_loss,
            "ece": metrics.ece,
        }
        return {name: value for name, value in found.items() if value is not None}
    named = {}
    for name, value in version.metrics.items():
        stem, _, number = name.rpartition("_")
        of_label = stem in ("ap50", "iou") and number.isdecimal() and int(number) < len(version.classes)
        named[f"{stem} of {version.classes[int(number)]}" if of_label else name] = value
    return named


def _figure(name: str, one: ModelVersion | DeepVersion, other: ModelVersion | DeepVersion) -> Figure:
    first, second = _measured(one).get(name), _measured(other).get(name)
    return Figure(
        name=name,
        first=first,
        second=second,
        first_interval=_interval(name, one),
        second_interval=_interval(name, other),
        difference=None if first is None or second is None else second - first,
        less_is_better=name in _LESS_IS_BETTER,
    )


def _interval(name: str, version: ModelVersion | DeepVersion) -> tuple[float, float] | None:
    """Return the 95 % interval of a share of tasks."""
    if name != "accuracy" or isinstance(version, DeepVersion) or version.metrics.accuracy is None:
        return None
    return progress.wilson(version.metrics.accuracy, version.metrics.n_holdout)


def _same_tasks(one: ModelVersion | DeepVersion, other: ModelVersion | DeepVersion) -> bool:
    """Say whether two versions were measured on the same tasks.

    The hold-out grows with the labels, so it is the same for the same labels only; a test set is locked.
    """
    if isinstance(one, DeepVersion) or isinstance(other, DeepVersion):
        return one.labels_digest == other.labels_digest
    mine, theirs = one.metrics, other.metrics
    alike = (mine.test_set, mine.n_holdout) == (theirs.test_set, theirs.n_holdout)
    return alike and (mine.test_set or one.labels_digest == other.labels_digest)


def _note(one: ModelVersion | DeepVersion, other: ModelVersion | DeepVersion, *, same: bool) -> str:
    if one.classes != other.classes:
        return "They answer different labels, so their figures say nothing about each other."
    if not _measured(one) or not _measured(other):
        return "Not both were measured, so there is nothing to compare."
    if same:
        return "Both were measured on the same tasks, so the differences are theirs."
    where = f"{_where(one)}, {_where(other)}"
    return (
        f"They were measured on different tasks, so their figures are not directly comparable ({where}): a difference "
        "within the intervals may be chance, or come from the tasks."
    )


def _where(version: ModelVersion | DeepVersion) -> str:
    if isinstance(version, DeepVersion):
        return f"{version.version_id} on the hold-out of {version.n_labels} labels"
    on = progress.measured_on(version.metrics)
    return f"{version.version_id} on {version.metrics.n_holdout} tasks of the {on}"
