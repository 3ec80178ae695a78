"""The nouns every floor speaks: frozen, without behaviour beyond themselves.

Names are those of `docs/glossary.md`. Times are UTC-aware; ids are Label Studio's integers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

ORDERED_SAMPLING = "Uncertainty sampling"
"""The sampling mode in which Label Studio serves tasks by ascending prediction score."""


@dataclass(frozen=True, slots=True)
class LabelSchema:
    """What a label config asks for, as far as this backend can learn it.

    Attributes:
        control: Name of the control tag, `from_name` of results.
        control_type: Lower-case type of its results, for example "choices".
        obj: Name of the object tag, `to_name` of results.
        field: Key of the task data that holds the image.
        classes: Labels in the order of the config; a class index counts into it.
    """

    control: str
    control_type: str
    obj: str
    field: str
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Annotation:
    """One annotation as Label Studio holds it.

    Attributes:
        result: Regions as Label Studio sends them.
        completed_by: User id of the annotator, None when Label Studio does not say.
    """

    annotation_id: int
    task_id: int
    result: tuple[dict[str, Any], ...]
    was_cancelled: bool
    ground_truth: bool
    completed_by: int | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Task:
    """One Label Studio task.

    Attributes:
        annotations: All of them, cancelled ones included; None when they were not read.
    """

    task_id: int
    data: dict[str, Any]
    updated_at: datetime
    is_labeled: bool
    total_annotations: int
    cancelled_annotations: int
    annotations: tuple[Annotation, ...] | None = None


@dataclass(frozen=True, slots=True)
class ProjectState:
    """A Label Studio project as it is now, in the fields the queue depends on.

    Attributes:
        sampling: "Sequential sampling", "Uniform sampling" or "Uncertainty sampling".
        model_version: Version whose scores order the queue; "" when unset.
        skip_queue: What happens with skipped tasks.
    """

    project_id: int
    title: str
    label_config: str
    sampling: str
    model_version: str
    show_collab_predictions: bool
    maximum_annotations: int
    skip_queue: str
    task_count: int
    annotation_count: int
    skipped_count: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row to publish.

    Attributes:
        result: Regions in Label Studio's format; empty for an order without pre-annotation.
        score: In (0, 1); Label Studio serves ascending scores, so 0 is next.
    """

    task_id: int
    result: tuple[dict[str, Any], ...]
    score: float
    model_version: str


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What can be measured on an image without a network.

    Attributes:
        width: In pixels, upright.
        height: In pixels, upright.
        n_bytes: Size of the file.
        sharpness: Variance of the Laplacian of the grey values 0 to 255; small = blurred, or empty.
        luminance: Mean CIE lightness L*, 0 = black, 100 = white.
        contrast: Standard deviation of L*, 0 to 50.
    """

    width: int
    height: int
    n_bytes: int
    sharpness: float
    luminance: float
    contrast: float

    @property
    def aspect(self) -> float:
        """Width over height."""
        return self.width / self.height


@dataclass(frozen=True, slots=True)
class Metrics:
    """Quality of a model version on labels it has not seen, and on how many of them that was measured.

    Attributes:
        n_holdout: Labels it was measured on; with 0 the others are None.
        ece: Expected calibration error, 15 bins of equal width, 0 to 1.
        test_set: Whether they were those of the locked test set, which estimates what comes without bias; the labels
            of the hold-out are those that the plan has asked for.
    """

    n_holdout: int
    accuracy: float | None = None
    balanced_accuracy: float | None = None
    log_loss: float | None = None
    ece: float | None = None
    test_set: bool = False


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """An immutable trained model.

    Attributes:
        version_id: "al-<round>-<hash8>".
        round: Counts retrains of the project, from 1.
        classes: Labels in index order.
        n_labels: Labels Label Studio held when it was trained; every one of them was used, to learn or to measure.
        labels_digest: SHA-256 over the sorted (task id, class) pairs it was trained on.
        state: "promoted", "rejected" by the gate, or "retired".
    """

    version_id: str
    project_id: int
    round: int
    backbone: str
    classes: tuple[str, ...]
    n_labels: int
    labels_digest: str
    temperature: float
    metrics: Metrics
    state: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Window:
    """A published stretch of the labelling queue: one set of predictions of one version in Label Studio.

    Attributes:
        version: Exact `model_version` string of its predictions.
        generation: The project's wanted generation it was computed for.
        model_version_id: Model that ranked it; None during cold start.
        task_ids: In order, most valuable first.
        n_labels: Labels known when it was ranked.
    """

    version: str
    project_id: int
    generation: int
    model_version_id: str | None
    task_ids: tuple[int, ...]
    n_labels: int
    flipped_at: datetime | None = None
    replaced_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, or was looked at and is fine, and what to do about it.

    Attributes:
        code: Stable kebab-case name; troubleshooting is indexed by it.
        level: "ok", "warning" or "error".
        subject: What it is about: "task 12", "setting window", "project".
    """

    code: str
    level: str
    subject: str
    message: str
    remedy: str = ""
    context: dict[str, Any] = field(default_factory=dict)
