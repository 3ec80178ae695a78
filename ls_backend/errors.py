"""Every error a person may see.

BackendError
├── SettingsError            a setting is wrong; the last good one stays in force
├── SettingsConflict         somebody else has saved settings meanwhile
├── BackbonePending          the weights of a network are being downloaded; not a fault
├── LabelStudioError
│   ├── Unreachable          no answer in time
│   ├── Rejected             an answer, but a refusal (.status)
│   └── ConfigUnsupported    the label config has nothing this backend can learn
├── DataError
│   ├── ImageUnreadable      one task's image cannot be fetched or decoded
│   ├── TextMissing          one task has no text
│   ├── LabelUnknown         an annotation holds a label the config no longer has
│   └── RegionUnusable       a region of an annotation is broken
├── StrategyError
│   ├── StrategyUnknown      no method of that name
│   ├── StrategyNotReady     the method needs something the pool does not have
│   └── PoolInvalid          arrays of the wrong shape or with unusable values
├── TrainingError
│   ├── TooFewLabels         not enough labels yet; not a fault
│   └── Diverged             the fit produced non-finite weights
├── ForeignModelError
│   ├── ForeignModelUnknown  the setting `model` names no model of label-studio-ml
│   └── ForeignModelFailed   somebody else's model raised, hung or died where it was needed
├── StoreError               a database or the vector store refused
└── QueueError               Redis cannot be reached or is misconfigured

A message says what happened with the value, what was expected and what to do. `code` is stable and is what
troubleshooting is indexed by; `hint` is one imperative sentence; `context` holds ids and numbers, never secrets.
"""

from __future__ import annotations


class BackendError(Exception):
    """Base of every error of this package."""

    code = "backend-error"
    hint = "Look at the log of the worker for the full story."

    def __init__(self, message: str, *, hint: str | None = None, **context: object) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint
        self.context = context


class SettingsError(BackendError):
    """A setting is unknown, out of range or of the wrong type."""

    code = "settings-invalid"
    hint = "Correct the setting; the last good settings stay in force until then."


class SettingsConflict(BackendError):
    """Settings were made from a revision that is no longer the newest; they were not saved."""

    code = "settings-conflict"
    hint = "Look at the settings as they are now, then make your change again and save it."


class BackbonePending(BackendError):
    """The weights of a backbone are on their way."""

    code = "backbone-pending"
    hint = "Wait; embedding starts by itself when they are there."


class LabelStudioError(BackendError):
    """Label Studio did not do what was asked."""

    code = "label-studio-error"
    hint = "Run `ls-backend doctor`."


class Unreachable(LabelStudioError):
    """Label Studio gave no answer in time."""

    code = "label-studio-unreachable"
    hint = "Check LABEL_STUDIO_URL and that Label Studio is running; work resumes by itself when it answers."


class Rejected(LabelStudioError):
    """Label Studio answered with a refusal."""

    code = "label-studio-rejected"

    def __init__(self, message: str, *, status: int, hint: str | None = None, **context: object) -> None:
        super().__init__(message, hint=hint, status=status, **context)
        self.status = status


class ConfigUnsupported(LabelStudioError):
    """The label config has no control tag this backend can learn from."""

    code = "config-unsupported"
    hint = "Add a Choices tag on an Image or a Text tag to the labelling interface."


class DataError(BackendError):
    """One task's data cannot be used; the rest of the batch goes on."""

    code = "data-error"


class ImageUnreadable(DataError):
    """An image cannot be fetched or decoded."""

    code = "image-unreadable"
    hint = "Open the task in Label Studio; replace or delete the image if it does not show there either."


class TextMissing(DataError):
    """A task has no text, or one of nothing but white space."""

    code = "text-missing"
    hint = "Add the text to the task data, or delete the task."


class LabelUnknown(DataError):
    """An annotation holds a label the label config does not have."""

    code = "label-unknown"
    hint = "Add the label to the labelling interface again, or correct the annotation."


class RegionUnusable(DataError):
    """A region of an annotation cannot be used; the others of the annotation are."""

    code = "region-unusable"
    hint = "Open the task in Label Studio and correct or delete the region."


class StrategyError(BackendError):
    """A ranking could not be made."""

    code = "strategy-error"


class StrategyUnknown(StrategyError):
    """No strategy of that name is registered."""

    code = "strategy-unknown"
    hint = "List the names with `ls-backend strategies`."


class StrategyNotReady(StrategyError):
    """The strategy needs something the pool does not have yet."""

    code = "strategy-not-ready"


class PoolInvalid(StrategyError):
    """Arrays of a pool disagree in shape or hold unusable values."""

    code = "pool-invalid"


class TrainingError(BackendError):
    """A model could not be trained."""

    code = "training-error"


class TooFewLabels(TrainingError):
    """There are not enough labels to train yet."""

    code = "too-few-labels"
    hint = "Go on labelling; training starts by itself."


class Diverged(TrainingError):
    """Training produced weights or probabilities that are not finite."""

    code = "training-diverged"
    hint = "Report it with the model card; the version in force stays."


class ForeignModelError(BackendError):
    """Somebody else's model cannot be used; the rest goes on without it."""

    code = "foreign-model-error"


class ForeignModelUnknown(ForeignModelError):
    """The setting `model` names nothing that is a class of label-studio-ml, or it cannot be imported."""

    code = "foreign-model-unknown"
    hint = "Correct the setting model, or install what is missing where the workers run, then restart them."


class ForeignModelFailed(ForeignModelError):
    """Somebody else's model raised an error, gave no answer in time or ended its process."""

    code = "foreign-model-failed"
    hint = "Read the log of the worker: the model's own words and its traceback are there."


class StoreError(BackendError):
    """The database or the vector store refused."""

    code = "store-error"
    hint = "Check disk space and permissions of DATA_DIR, then `ls-backend doctor`."


class QueueError(BackendError):
    """Redis cannot be reached or is not fit for a job queue."""

    code = "queue-error"
    hint = "Check REDIS_URL, or unset it to use the embedded server."
