"""The label config: what of it can be learned, and reading and writing labels in its format.

The SDK's `LabelInterface` reads the XML and judges predictions, as Label Studio itself does with the same code. Its
import takes a second (neither torch nor pandas come with it), so it waits for the first config; a server that must
answer that one in time calls `warm` in a thread when it starts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ls_backend.domain import Annotation, Control, LabelSchema, Prediction
from ls_backend.errors import ConfigUnsupported, LabelUnknown

if TYPE_CHECKING:
    from label_studio_sdk.label_interface.control_tags import ControlTag
    from label_studio_sdk.label_interface.interface import LabelInterface

_KINDS = {"choices", "rectanglelabels", "polygonlabels", "brushlabels"}
_SUPPORTED = (
    "Supported: Choices on an Image or a Text tag, RectangleLabels, PolygonLabels and BrushLabels on an Image tag"
)
_MAX_NAMES = 5
_MAX_LABELS = 254  # of regions: class maps count in a byte


@dataclass(frozen=True, slots=True)
class Resolved:
    """What stands for all annotations of a task.

    Attributes:
        label: As `LabelSchema.written` writes it; None when no annotation holds an answer that counts.
        problem: What a person should look at, in a sentence; None when nothing is wrong.
    """

    label: str | None
    problem: str | None = None


def warm() -> None:
    """Load the SDK now rather than in the first request."""
    _interface('<View><Image name="image" value="$image"/></View>')


def parse(label_config: str) -> LabelSchema:
    """Find the control tags that can be learned, side by side, on one Image or one Text.

    A control with `model_skip="true"` or `model_active="false"` is left alone, and so is one on another object than
    the first. Messages hold no tags or angle brackets: Label Studio shows them to the owner as the reason of an HTTP
    refusal, from which it strips markup.

    Raises:
        ConfigUnsupported: If there is none; the message says what was found and why it does not fit.
    """
    interface = _interface(label_config)
    reasons: list[str] = []
    found: list[tuple[Control, str, str]] = []
    nested = _nested_controls(interface)
    for control in interface.controls or ():
        why_not = "nests choices in choices" if control.name in nested else _why_not(control)
        if why_not is not None:
            reasons.append(f"{control.tag} {control.name} {why_not}")
            continue
        target = (control.objects or [])[0]
        found.append((_control(control), str(target.value_name), target.tag.lower()))
    if found:
        _, field, tag = found[0]
        controls = tuple(control for control, *where in found if where == [field, tag])
        return LabelSchema(field, controls, "text" if tag == "text" else "image")
    if not reasons:
        raise ConfigUnsupported(f"The label config has no control tag. {_SUPPORTED}.")
    shown = "; ".join(reasons[:_MAX_NAMES]) + ("; and more" if len(reasons) > _MAX_NAMES else "")
    raise ConfigUnsupported(_plain(f"The label config has nothing to learn from: {shown}. {_SUPPORTED}."))


def read_label(schema: LabelSchema, annotations: Iterable[Annotation]) -> Resolved:
    """Decide the answers of a task, control by control; cancelled annotations never count.

    A single choice goes by ground truth before others, then the majority, then the latest; an annotation without a
    choice has no vote. Of labels that may hold together each goes by that rule, and giving none is an answer. Regions
    cannot be voted on: those of `standing` count.
    """
    counted = [annotation for annotation in annotations if not annotation.was_cancelled]
    answers: dict[str, Sequence[str]] = {}
    problems: list[str] = []
    for control in schema.controls:
        votes: list[tuple[Annotation, list[str]]] = []
        for annotation in counted:
            chosen = _labels(control, annotation.result)
            wrong = _problem(control, annotation, chosen)
            if wrong is not None:
                problems.append(wrong)
            known = [label for label in chosen if label in control.classes]
            if control.multiple or (known and wrong is None):
                votes.append((annotation, known))
        if votes:
            answers[control.name] = _decided(control, votes)
    return Resolved(schema.written(answers) if answers else None, problems[-1] if problems else None)


def standing(annotations: Iterable[Annotation]) -> Annotation | None:
    """Return the annotation whose regions count: the latest ground truth, or else the latest; cancelled ones never."""
    counted = [annotation for annotation in annotations if not annotation.was_cancelled]
    return max(counted, key=lambda one: (one.ground_truth, one.updated_at, one.annotation_id), default=None)


def make_result(control: Control, labels: Sequence[str], score: float) -> tuple[dict[str, Any], ...]:
    """Write the labels of a Choices control as the regions of a prediction; no region for no label.

    Args:
        control: Where the labels go.
        labels: Of its classes; at most one unless several may hold.
        score: Confidence, 0 to 1; the place in the queue is the score of the prediction, not this one.

    Raises:
        LabelUnknown: If the label config lacks a label.
    """
    for label in labels:
        if label not in control.classes:
            raise LabelUnknown(f"'{label}' is not a label of control {control.name}: {', '.join(control.classes)}.")
    region = {
        "from_name": control.name,
        "to_name": control.obj,
        "type": control.kind,
        "value": {"choices": list(labels)},
        "score": score,
    }
    return (region,) if labels else ()


def chosen(schema: LabelSchema, probabilities: Sequence[float]) -> tuple[dict[str, Any], ...]:
    """Write what a model holds for most likely about the Choices controls; what is below a threshold is left out.

    Args:
        schema: What was asked.
        probabilities: Of its classes.
    """
    likeliest = set(schema.likeliest(probabilities))
    result: tuple[dict[str, Any], ...] = ()
    for control, columns in schema.spans:
        if control.draws:
            continue
        held = [
            (label, value)
            for i, (label, value) in enumerate(zip(control.classes, probabilities[columns], strict=True), columns.start)
            if i in likeliest and value >= control.threshold
        ]
        confidence = sum(value for _, value in held) / max(len(held), 1)
        result += make_result(control, [label for label, _ in held], confidence)
    return result


def validate(label_config: str, prediction: Prediction) -> list[str]:
    """List what Label Studio would find wrong with a prediction; it drops such rows in silence.

    Raises:
        ConfigUnsupported: If the label config is not XML.
    """
    row = {
        "task": prediction.task_id,
        "result": [dict(region) for region in prediction.result],
        "score": prediction.score,
        "model_version": prediction.model_version,
    }
    found = _interface(label_config).validate_prediction(row, return_errors=True)  # type: ignore[no-untyped-call]  # the SDK's
    return [str(word) for word in found]


@lru_cache(maxsize=32)
def _interface(label_config: str) -> LabelInterface:
    from label_studio_sdk.label_interface.interface import LabelInterface  # noqa: PLC0415 - slow, see above

    if not label_config.strip():
        raise ConfigUnsupported(f"The project has no label config yet. {_SUPPORTED}.")
    try:
        return LabelInterface(label_config)
    except Exception as error:  # the SDK lets errors of lxml, pydantic and its own through
        raise ConfigUnsupported(
            _plain(f"The label config cannot be read: {error}"), hint="Correct the XML of the labelling interface."
        ) from error


def _why_not(control: ControlTag) -> str | None:
    """Why a control cannot be learned, as the end of a sentence; None when it can."""
    attributes: Mapping[str, str] = control.attr or {}
    if str(attributes.get("model_skip", "")).lower() == "true":
        return "is left alone as its model_skip says"
    if str(attributes.get("model_active", "")).lower() == "false":
        return "is left alone as its model_active says"
    kind = str(control.tag).lower()
    if kind not in _KINDS:
        return "is none of them"
    if _threshold(attributes) is None:
        return f"has model_score_threshold '{attributes.get('model_score_threshold')}', not a number from 0 to 1"
    return (_why_not_choices if kind == "choices" else _why_not_regions)(control, attributes)


def _why_not_choices(control: ControlTag, attributes: Mapping[str, str]) -> str | None:
    if str(attributes.get("perRegion", "")).lower() == "true":
        return "is asked for each region"
    labels = control.labels_attrs or {}
    if not labels or control.dynamic_value:
        return "takes its choices from the task data"
    if len(labels) < 2 and not _several(attributes):
        return f"has one choice only, {next(iter(labels))}"
    return _why_not_target(control, ("image", "text"))


def _why_not_regions(control: ControlTag, _attributes: Mapping[str, str]) -> str | None:
    labels = control.labels_attrs or {}
    if not labels or control.dynamic_value:
        return "takes its labels from the task data"
    if len(labels) > _MAX_LABELS:
        return f"has {len(labels)} labels, more than {_MAX_LABELS}"
    return _why_not_target(control, ("image",))


def _why_not_target(control: ControlTag, able: tuple[str, ...]) -> str | None:
    targets = control.objects or []
    if len(targets) != 1 or targets[0].tag.lower() not in able:
        on = " and ".join(target.tag for target in targets) or "no object"
        return f"is on {on}, not on one {' or '.join(name.capitalize() for name in able)}"
    tag, attributes = targets[0].tag, targets[0].attr
    if attributes.get("valueList") or not targets[0].value_is_variable:
        return f"is on {_article(tag)} {tag} whose value is not one field of the task data"
    if tag.lower() == "text" and str(attributes.get("valueType", "text")).lower() == "url":
        return "is on a Text that holds addresses (valueType url), which are not read; put the texts into the task data"
    return None


def _article(noun: str) -> str:
    return "an" if noun[0].lower() in "aeiou" else "a"


def _several(attributes: Mapping[str, str]) -> bool:
    return str(attributes.get("choice", "single")).lower().startswith("multiple")


def _threshold(attributes: Mapping[str, str]) -> float | None:
    """Read the confidence below which predictions are not shown; None when it is no number from 0 to 1."""
    try:
        value = float(attributes.get("model_score_threshold", attributes.get("score_threshold", 0.0)))
    except ValueError:
        return None
    return value if 0.0 <= value <= 1.0 else None


def _nested_controls(interface: LabelInterface) -> set[str]:
    """Names of controls whose choices hold choices; the SDK shows these as one flat list."""
    tree = interface._tree  # noqa: SLF001 - the SDK has no public way to the parsed XML
    return {
        str(control.get("name"))
        for control in tree.iter("Choices")
        if any(choice.find(".//Choice") is not None for choice in control.iter("Choice"))
    }


def _control(control: ControlTag) -> Control:
    kind = str(control.tag).lower()
    attributes: Mapping[str, str] = control.attr or {}
    labels: Mapping[str, Any] = control.labels_attrs or {}
    return Control(
        name=str(control.name),
        kind=kind,
        obj=(control.objects or [])[0].name,
        classes=tuple(labels),
        multiple=kind != "choices" or _several(attributes),
        threshold=_threshold(attributes) or 0.0,
        aliases=tuple(
            (alias.strip(), label)
            for label, tag in labels.items()
            for alias in str(tag.attr.get("predicted_values", "")).split(",")
            if alias.strip()
        ),
    )


def _labels(control: Control, result: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the labels an annotation gives under a control, those of regions as often as they occur."""
    found: list[str] = []
    for region in result:
        if region.get("from_name") != control.name or region.get("type") != control.kind:
            continue
        value = region.get("value") or {}
        found += [str(label) for label in value.get(control.kind) or ()]
    return found


def _problem(control: Control, annotation: Annotation, labels: Sequence[str]) -> str | None:
    if not control.multiple and len(labels) > 1:
        return f"Annotation {annotation.annotation_id} holds {len(labels)} labels; one is expected."
    unknown = next((label for label in labels if label not in control.classes), None)
    if unknown is not None:
        return f"Annotation {annotation.annotation_id} holds the label '{unknown}', which the label config lacks."
    return None


def _decided(control: Control, votes: Sequence[tuple[Annotation, list[str]]]) -> Sequence[str]:
    """Return the labels that stand: by ground truth, the majority, the latest."""
    if control.draws:
        final = standing(annotation for annotation, _ in votes)
        return next(labels for annotation, labels in votes if annotation is final)
    trusted = [vote for vote in votes if vote[0].ground_truth] or votes

    def winner(answers: Sequence[tuple[Annotation, str | bool]]) -> str | bool:
        counts = Counter(answer for _, answer in answers)
        return max(answers, key=lambda one: (counts[one[1]], one[0].updated_at, one[0].annotation_id))[1]

    if control.multiple:
        return [label for label in control.classes if winner([(one, label in given) for one, given in trusted])]
    return [str(winner([(one, given[0]) for one, given in trusted]))]


def _plain(text: str) -> str:
    """Make a text fit for one line of an HTTP answer: no markup, no line breaks."""
    return " ".join(re.sub(r"[<>\x00-\x1f\x7f]+", " ", text).split())
