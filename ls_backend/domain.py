"""The nouns every floor speaks: frozen, without behaviour beyond themselves.

Names are those of `docs/glossary.md`. Times are UTC-aware; ids are Label Studio's integers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

ORDER_LOST = frozenset({"sampling-mode", "model-version", "predictions-off"})
"""Codes of findings that mean, while they are errors, that Label Studio serves another order than ours."""

MENDED_BY_CONNECTING = frozenset(
    {
        "ml-backend-missing",
        "not-connected",
        "predictions-off",
        "sampling-mode",
        "webhook-missing",
        "webhook-narrowed",
        "webhook-secret",
    }
)
"""Codes of findings that connecting a project once more puts right, whatever it was before."""

ORDERED_SAMPLING = "Uncertainty sampling"
"""The sampling mode in which Label Studio serves tasks by ascending prediction score."""


@dataclass(frozen=True, slots=True)
class Control:
    """One control tag that can be learned.

    Attributes:
        name: `from_name` of its results.
        kind: Type of its results, lower case: "choices", "rectanglelabels", "polygonlabels" or "brushlabels".
        obj: Name of the object tag, `to_name` of results.
        classes: Labels in the order of the config.
        multiple: Whether several labels may hold at once: every label is then a yes/no question.
        threshold: Confidence, 0 to 1, below which predictions are not shown: `model_score_threshold`.
        aliases: (other name, label): what other people's models call a label, from `predicted_values`.
    """

    name: str
    kind: str
    obj: str
    classes: tuple[str, ...]
    multiple: bool = False
    threshold: float = 0.0
    aliases: tuple[tuple[str, str], ...] = ()

    @property
    def draws(self) -> bool:
        """Whether its results are regions of the image; what is learnt after every label is which labels occur."""
        return self.kind != "choices"


@dataclass(frozen=True, slots=True)
class LabelSchema:
    """What a label config asks for, as far as this backend can learn it.

    Attributes:
        field: Key of the task data that holds the image or the text.
        controls: At least one, in the order of the config.
        modality: What is labelled: the controls are on one Image tag or on one Text tag.
    """

    field: str
    controls: tuple[Control, ...]
    modality: Literal["image", "text"] = "image"

    @property
    def classes(self) -> tuple[str, ...]:
        """Labels of all controls; a class index counts into it. Controls may share a label: both names are given."""
        if len(self.controls) == 1:
            return self.controls[0].classes
        return tuple(f"{control.name}: {label}" for control in self.controls for label in control.classes)

    @property
    def questions(self) -> tuple[int, ...]:
        """Question that each class answers: labels of a single choice share one, any other label is its own."""
        numbers: list[int] = []
        for control in self.controls:
            first = numbers[-1] + 1 if numbers else 0
            numbers += [first + i if control.multiple else first for i in range(len(control.classes))]
        return tuple(numbers)

    @property
    def spans(self) -> tuple[tuple[Control, slice], ...]:
        """Each control with the class indices of its labels."""
        found: list[tuple[Control, slice]] = []
        start = 0
        for control in self.controls:
            found.append((control, slice(start, start + len(control.classes))))
            start += len(control.classes)
        return tuple(found)

    def confidence(self, probabilities: Sequence[float]) -> float:
        """Return how sure the likeliest answers are, 0 to 1: the mean over the questions."""
        best: list[float] = []
        for control, columns in self.spans:
            values = probabilities[columns]
            best += [max(value, 1.0 - value) for value in values] if control.multiple else [max(values)]
        return sum(best) / len(best)

    @property
    def is_one_choice(self) -> bool:
        """Whether every task gets exactly one label."""
        return len(self.controls) == 1 and not self.controls[0].multiple

    def written(self, answers: Mapping[str, Sequence[str]]) -> str:
        """Write what a task was answered as one text: the label itself, or JSON by control where there may be more.

        Args:
            answers: Control -> its labels; a control that was not answered is missing.
        """
        if self.is_one_choice:
            return answers[self.controls[0].name][0]
        return json.dumps({name: list(labels) for name, labels in answers.items()}, ensure_ascii=False, sort_keys=True)

    def read(self, text: str) -> dict[str, tuple[str, ...]]:
        """Read what `written` wrote for this label config."""
        if self.is_one_choice:
            return {self.controls[0].name: (text,)}
        return {name: tuple(labels) for name, labels in json.loads(text).items()}

    def likeliest(self, probabilities: Sequence[float]) -> tuple[int, ...]:
        """Return the class indices that most likely hold: one of each single choice, other labels above 1/2."""
        found: list[int] = []
        for control, columns in self.spans:
            values = probabilities[columns]
            if control.multiple:
                found += [columns.start + i for i, value in enumerate(values) if value >= 0.5]
            else:
                found.append(columns.start + max(range(len(values)), key=values.__getitem__))
        return tuple(found)


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
        trains_on_submit: Whether every n-th submit asks the backend to train, inside the submit.
        predicts_on_load: Whether a page of the Data Manager asks for the predictions its tasks lack.
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
    trains_on_submit: bool = False
    predicts_on_load: bool = False


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
class Reliability:
    """Answers of about the same confidence, and how many of them were right.

    Attributes:
        confidence: Their mean confidence, 0 to 1.
        accuracy: Share of them that was right.
        n: How many, at least 1.
    """

    confidence: float
    accuracy: float
    n: int


@dataclass(frozen=True, slots=True)
class Metrics:
    """Quality of a model version on labels it has not seen, and on how many of them that was measured.

    Attributes:
        n_holdout: Labelled tasks it was measured on; with 0 the others are None.
        accuracy: Share of tasks with the right answer; with several labels at once, of tasks with every answer right.
        balanced_accuracy: Accuracy averaged over the classes, of yes/no questions over both answers.
        log_loss: Mean over the questions.
        ece: Expected calibration error, 15 bins of equal width, 0 to 1.
        test_set: Whether they were those of the locked test set, which estimates what comes without bias; the labels
            of the hold-out are those that the plan has asked for.
        reliability: Confidence against accuracy in 10 bins of equal width, empty ones left out; the answers to all
            questions together. Versions from before it was measured have none.
    """

    n_holdout: int
    accuracy: float | None = None
    balanced_accuracy: float | None = None
    log_loss: float | None = None
    ece: float | None = None
    test_set: bool = False
    reliability: tuple[Reliability, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """An immutable trained model.

    Attributes:
        version_id: "al-<round>-<hash8>".
        round: Counts retrains of the project, from 1.
        classes: Labels in index order.
        questions: Question that each class answers, as in `LabelSchema`.
        n_labels: Labels Label Studio held when it was trained; every one of them was used, to learn or to measure.
        labels_digest: SHA-256 over the sorted (task id, class) pairs it was trained on.
        state: "promoted", "rejected" by the gate, or "retired" because its files are lost.
        reason: Why the gate refused it; None otherwise, and for versions from before it was recorded.
    """

    version_id: str
    project_id: int
    round: int
    backbone: str
    classes: tuple[str, ...]
    questions: tuple[int, ...]
    n_labels: int
    labels_digest: str
    temperature: float
    metrics: Metrics
    state: str
    created_at: datetime
    reason: str | None = None

    def answers(self, schema: LabelSchema) -> bool:
        """Whether it was trained for this label config."""
        return self.classes == schema.classes and self.questions == schema.questions


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


def plain(record: Any) -> dict[str, Any]:  # noqa: ANN401 - any of our frozen records
    """Turn a record, and those inside it, into what JSON can hold; moments become ISO 8601."""
    return _with_texts(asdict(record))


def _with_texts(row: dict[str, Any]) -> dict[str, Any]:
    texts = dict(row)
    for key, value in row.items():
        if isinstance(value, dict):
            texts[key] = _with_texts(value)
        elif isinstance(value, datetime):
            texts[key] = value.isoformat()
    return texts
