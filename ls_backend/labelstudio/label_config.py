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

from ls_backend.domain import Annotation, LabelSchema, Prediction
from ls_backend.errors import ConfigUnsupported, LabelUnknown

if TYPE_CHECKING:
    from label_studio_sdk.label_interface.control_tags import ControlTag
    from label_studio_sdk.label_interface.interface import LabelInterface

_SUPPORTED = "Supported: a single-choice Choices tag on an Image tag"
_MAX_NAMES = 5


@dataclass(frozen=True, slots=True)
class Resolved:
    """The one label that stands for all annotations of a task.

    Attributes:
        label: None when no annotation holds one that counts.
        problem: What a person should look at, in a sentence; None when nothing is wrong.
    """

    label: str | None
    problem: str | None = None


def warm() -> None:
    """Load the SDK now rather than in the first request."""
    _interface('<View><Image name="image" value="$image"/></View>')


def parse(label_config: str) -> LabelSchema:
    """Find the first control tag that can be learned: a single-choice Choices on an Image.

    A control with `model_skip="true"` is left alone. Messages hold no tags or angle brackets: Label Studio shows them
    to the owner as the reason of an HTTP refusal, from which it strips markup.

    Raises:
        ConfigUnsupported: If there is none; the message says what was found and why it does not fit.
    """
    interface = _interface(label_config)
    reasons: list[str] = []
    nested = _nested_controls(interface)
    for control in interface.controls or ():
        why_not = "nests choices in choices" if control.name in nested else _why_not(control)
        if why_not is None:
            return _schema(control)
        reasons.append(f"{control.tag} {control.name} {why_not}")
    if not reasons:
        raise ConfigUnsupported(f"The label config has no control tag. {_SUPPORTED}.")
    shown = "; ".join(reasons[:_MAX_NAMES]) + ("; and more" if len(reasons) > _MAX_NAMES else "")
    raise ConfigUnsupported(_plain(f"The label config has nothing to learn from: {shown}. {_SUPPORTED}."))


def read_label(schema: LabelSchema, annotations: Iterable[Annotation]) -> Resolved:
    """Decide the label of a task: ground truth before others, then the majority, then the latest.

    Cancelled annotations never count, and one without a choice has no vote.
    """
    votes: list[tuple[Annotation, str]] = []
    problem: str | None = None
    for annotation in annotations:
        if annotation.was_cancelled:
            continue
        chosen = _choices(schema, annotation.result)
        if len(chosen) > 1:
            problem = f"Annotation {annotation.annotation_id} holds {len(chosen)} labels; one is expected."
        elif chosen and chosen[0] not in schema.classes:
            problem = (
                f"Annotation {annotation.annotation_id} holds the label '{chosen[0]}', which the label config lacks."
            )
        elif chosen:
            votes.append((annotation, chosen[0]))
    if not votes:
        return Resolved(None, problem)
    trusted = [vote for vote in votes if vote[0].ground_truth] or votes
    counts = Counter(label for _, label in trusted)
    best = max(trusted, key=lambda vote: (counts[vote[1]], vote[0].updated_at, vote[0].annotation_id))
    return Resolved(best[1], problem)


def make_result(schema: LabelSchema, label: str, score: float) -> tuple[dict[str, Any], ...]:
    """Write a label as the regions of a prediction.

    Args:
        schema: Where the label goes.
        label: One of its classes.
        score: Confidence, 0 to 1; the place in the queue is the score of the prediction, not this one.

    Raises:
        LabelUnknown: If the label config lacks the label.
    """
    if label not in schema.classes:
        raise LabelUnknown(f"'{label}' is not a label of control {schema.control}: {', '.join(schema.classes)}.")
    region = {
        "from_name": schema.control,
        "to_name": schema.obj,
        "type": schema.control_type,
        "value": {"choices": [label]},
        "score": score,
    }
    return (region,)


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
    if str(control.tag).lower() != "choices":
        return "is no Choices tag"
    return _why_not_choices(control, attributes)


def _why_not_choices(control: ControlTag, attributes: Mapping[str, str]) -> str | None:
    if str(attributes.get("choice", "single")).lower().startswith("multiple"):
        return "allows several choices"
    if str(attributes.get("perRegion", "")).lower() == "true":
        return "is asked for each region"
    labels = control.labels_attrs or {}
    if not labels or control.dynamic_value:
        return "takes its choices from the task data"
    if len(labels) < 2:
        return f"has one choice only, {next(iter(labels))}"
    return _why_not_target(control)


def _why_not_target(control: ControlTag) -> str | None:
    targets = control.objects or []
    if len(targets) != 1 or targets[0].tag.lower() != "image":
        return "is on " + (" and ".join(target.tag for target in targets) or "no object") + ", not on one Image"
    if targets[0].attr.get("valueList") or not targets[0].value_is_variable:
        return "is on an Image whose value is not one field of the task data"
    return None


def _nested_controls(interface: LabelInterface) -> set[str]:
    """Names of controls whose choices hold choices; the SDK shows these as one flat list."""
    tree = interface._tree  # noqa: SLF001 - the SDK has no public way to the parsed XML
    return {
        str(control.get("name"))
        for control in tree.iter("Choices")
        if any(choice.find(".//Choice") is not None for choice in control.iter("Choice"))
    }


def _schema(control: ControlTag) -> LabelSchema:
    target = (control.objects or [])[0]
    return LabelSchema(
        control=str(control.name),
        control_type="choices",
        obj=target.name,
        field=target.value_name,
        classes=tuple(control.labels_attrs or {}),
    )


def _choices(schema: LabelSchema, result: Sequence[Mapping[str, Any]]) -> list[str]:
    found: list[str] = []
    for region in result:
        if region.get("from_name") != schema.control or region.get("type") != schema.control_type:
            continue
        value = region.get("value") or {}
        found += [str(choice) for choice in value.get("choices") or ()]
    return found


def _plain(text: str) -> str:
    """Make a text fit for one line of an HTTP answer: no markup, no line breaks."""
    return " ".join(re.sub(r"[<>\x00-\x1f\x7f]+", " ", text).split())
