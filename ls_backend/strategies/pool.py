"""What a ranking is made from: arrays of the tasks that may be picked now, and of what is labelled already."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ls_backend.errors import PoolInvalid
from ls_backend.strategies.struggles import ErrorRates

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Indices = NDArray[np.int64]
Blocks = tuple[Indices, ...]
"""Columns of each question."""

_AXIS_OF_TASKS = {
    "embeddings": 0,
    "probabilities": 0,
    "ids": 0,
    "member_probabilities": 1,
    "dropout_probabilities": 1,
    "predicted_loss": 0,
    "doubts": 0,
}
_OF_THE_LABELLED = (
    "labelled_embeddings",
    "labelled_counts",
    "labelled_probabilities",
    "class_names",
    "cost_matrix",
    "error_rates",
    "questions",
    "settled",
)
NORM_TOLERANCE = 0.01
SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Pool:
    """Tasks that may be picked now (n), and what is known about the labelled ones (m).

    Arrays are checked and converted on construction, never changed in place. A row of zeros is accepted: such a task
    has no direction, is equally far from every other task, and is ranked by its remaining factors.

    Attributes:
        embeddings: (n, d) float32, rows of unit length or all zero. `unit_rows` makes them so.
        probabilities: (n, c) float32 class probabilities of temperature-scaled logits, rows sum to 1; None before the
            first model.
        labelled_embeddings: (m, d) float32, rows of unit length: tasks labelled, or promised to an annotator.
        labelled_counts: (c,) float64 labels per class so far, for a yes/no question those that say yes; None counts as
            none.
        metadata: Field name to (n,) array of numbers or words; NaN, None and "" mean that a task lacks the field.
        class_names: c labels in index order; needed where a plan names classes.
        ids: (n,) int64 distinct task ids, which make a ranking independent of the order of the rows; None uses the row
            numbers.
        member_probabilities: (t, n, c) float32 what each of t >= 2 committee members believes, for instance heads
            fitted on bootstrap samples of the labels.
        dropout_probabilities: (t, n, c) float32 what the head believes when a part of each embedding is blanked out.
        labelled_probabilities: (m, c) float32 what the model believes about the labelled tasks.
        cost_matrix: (c, c) float64 cost of the answer in the column when the row is the truth, 0 or more. What lies
            between two questions is not looked at; on the diagonal of a yes/no question is the cost of a wrong answer
            to it, either way.
        predicted_loss: (n,) float64 loss the model is expected to have on each task, in any unit.
        error_rates: Metadata field to how often the model errs for each of its values; for rules weighted by errors.
        questions: (c,) int64 number of the question that each column answers, in any order; None where all columns
            answer the same one, which one number for two or more columns says as well.
        doubts: (n, q) float64 in [0, 1], uncertainties found elsewhere, for instance by a detector; every column is
            one more question in doubt. NaN where not known, which counts as the median of the column.
        settled: Numbers of the questions whose doubt is in `doubts` already; their probabilities count for everything
            but doubt. A detector knows better than the presence of a class what is unclear in an image.

    Raises:
        PoolInvalid: If shapes disagree or values are unusable.
    """

    embeddings: Floats32
    probabilities: Floats32 | None = None
    labelled_embeddings: Floats32 | None = None
    labelled_counts: Floats | None = None
    metadata: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    ids: Indices | None = None
    member_probabilities: Floats32 | None = None
    dropout_probabilities: Floats32 | None = None
    labelled_probabilities: Floats32 | None = None
    cost_matrix: Floats | None = None
    predicted_loss: Floats | None = None
    error_rates: Mapping[str, ErrorRates] = field(default_factory=dict)
    questions: Indices | None = None
    doubts: Floats | None = None
    settled: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        embeddings = _unit_length("embeddings", self.embeddings)
        n, d = embeddings.shape
        checked: dict[str, object] = {"embeddings": embeddings}
        blocks: Blocks | None = None
        if self.questions is not None:
            checked["questions"] = questions = _questions(self.questions)
            blocks = None if questions is None else blocks_of(questions)
        n_classes = None if self.questions is None else len(self.questions)
        if self.probabilities is not None:
            checked["probabilities"] = probabilities = _distributions(
                "probabilities", self.probabilities, (n,), n_classes, blocks
            )
            n_classes = probabilities.shape[1]
        if self.labelled_embeddings is not None:
            checked["labelled_embeddings"] = labelled = _unit_length("labelled_embeddings", self.labelled_embeddings)
            if labelled.shape[1] != d:
                raise PoolInvalid(
                    f"labelled_embeddings have {labelled.shape[1]} dimensions, embeddings have {d}; expected the same "
                    "backbone for both. Embed the labelled tasks again."
                )
        if self.labelled_counts is not None:
            checked["labelled_counts"] = counts = _counts(self.labelled_counts, n_classes)
            n_classes = len(counts)
        checked["metadata"] = {name: _column(name, column, n) for name, column in (self.metadata or {}).items()}
        if self.class_names is not None:
            checked["class_names"] = _names(self.class_names, n_classes)
        checked |= self._checked_beliefs(n, n_classes, blocks)
        by_task: dict[str, Callable[[ArrayLike, int], object]] = {
            "ids": _ids,
            "predicted_loss": _losses,
            "doubts": _doubts,
        }
        for name, check in by_task.items():
            if getattr(self, name) is not None:
                checked[name] = check(getattr(self, name), n)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def _checked_beliefs(self, n: int, n_classes: int | None, blocks: Blocks | None) -> dict[str, object]:
        """Check everything beyond `probabilities` that has an axis of classes; the first one seen sets their number."""
        n_labelled = 0 if self.labelled_embeddings is None else len(self.labelled_embeddings)
        shapes = {"member_probabilities": (None, n), "dropout_probabilities": (None, n)}
        checked: dict[str, object] = {}
        for name, shape in {**shapes, "labelled_probabilities": (n_labelled,)}.items():
            values = getattr(self, name)
            if values is not None:
                checked[name] = beliefs = _distributions(name, values, shape, n_classes, blocks)
                n_classes = beliefs.shape[-1]
        if self.cost_matrix is not None:
            checked["cost_matrix"] = _costs(self.cost_matrix, n_classes, blocks)
        return checked

    @property
    def blocks(self) -> Blocks:
        """Columns of each question that the probabilities answer, in the order of their numbers."""
        if self.probabilities is None:
            return ()
        if self.questions is None:
            return (np.arange(self.probabilities.shape[1]),)
        return blocks_of(self.questions)

    @property
    def size(self) -> int:
        """Number of tasks that may be picked, n."""
        return len(self.embeddings)

    def class_shown(self, index: int) -> str:
        """Return a class as people read it."""
        return f"class {index}" if self.class_names is None else repr(self.class_names[index])


def subset(pool: Pool, rows: Indices, **changes: Any) -> Pool:  # noqa: ANN401 - fields of Pool
    """Return the tasks of some rows, in that order; what is known about the labelled ones stays.

    Args:
        pool: n tasks.
        rows: (m,) int64 rows to keep.
        changes: Fields of `Pool` to set instead of taking rows of them, for m tasks.

    Returns:
        A pool of m tasks.
    """
    kept: dict[str, Any] = {
        "metadata": {name: column[rows] for name, column in pool.metadata.items()},
        **{name: getattr(pool, name) for name in _OF_THE_LABELLED},
    }
    for name, axis in _AXIS_OF_TASKS.items():
        values = None if name in changes else getattr(pool, name)
        kept[name] = None if values is None else values.take(rows, axis=axis)
    return Pool(**{**kept, **changes})


def unit_rows(values: ArrayLike) -> Floats32:
    """Scale every row to unit length; rows of zeros stay zeros.

    Args:
        values: (n, d) numbers.

    Returns:
        (n, d) float32, a new array.
    """
    array = np.asarray(values, dtype=np.float32)
    norms = np.sqrt(np.einsum("ij,ij->i", array, array))
    scaled: Floats32 = np.divide(array, norms[:, None], out=np.zeros_like(array), where=norms[:, None] > 0)
    return scaled


def _numbers(name: str, values: ArrayLike, dtype: type[np.float32 | np.float64], n_axes: int) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.asarray(values, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise PoolInvalid(
            f"{name} cannot be read as numbers ({error}); expected a {n_axes}-dimensional array of numbers. "
            "Pass a NumPy array."
        ) from error
    if array.ndim != n_axes:
        raise PoolInvalid(f"{name} have shape {array.shape}; expected {n_axes} axes. Reshape them.")
    return array


def _unit_length(name: str, values: ArrayLike) -> Floats32:
    array: Floats32 = _numbers(name, values, np.float32, 2)
    if array.shape[1] == 0:
        raise PoolInvalid(f"{name} have shape {array.shape}; expected at least one dimension. Check the backbone.")
    norms = np.sqrt(
        np.einsum("ij,ij->i", array, array)
    )  # one pass finds both bad lengths and values that are no number
    wrong = ~(np.abs(norms - 1) <= NORM_TOLERANCE) & (norms != 0)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise PoolInvalid(
            f"Row {row} of {name} has length {norms[row]:.4g} ({int(wrong.sum())} such rows); expected unit length or "
            "all zeros. Scale them with ls_backend.strategies.unit_rows, and leave out tasks whose embedding is not "
            "finite."
        )
    return array


def blocks_of(questions: Indices) -> Blocks:
    """Return the columns of each question, in the order of their numbers."""
    return tuple(np.flatnonzero(questions == number) for number in np.unique(questions))


def _questions(values: ArrayLike) -> Indices | None:
    """Check the numbers of questions; None where one number for all columns says that there is one question."""
    array = np.asarray(values)
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "iu":
        raise PoolInvalid(
            f"questions have shape {array.shape} and type {array.dtype}; expected (c,) integers, for each column the "
            "number of the question it answers. Give the columns of a single choice the same number, and every label "
            "that may hold beside others a number of its own."
        )
    return None if len(array) > 1 and (array == array[0]).all() else array.astype(np.int64)


def _distributions(
    name: str,
    values: ArrayLike,
    shape: tuple[int | None, ...],
    n_classes: int | None,
    blocks: Blocks | None,
) -> Floats32:
    """Check answers along the last axis; None in the shape stands for any length of two or more."""
    array: Floats32 = _numbers(name, values, np.float32, len(shape) + 1)
    fits = all(
        length >= 2 if wanted is None else length == wanted
        for length, wanted in zip(array.shape, (*shape, n_classes), strict=True)
    )
    if not fits:
        letters = ["t" if wanted is None else str(wanted) for wanted in shape]
        columns = "at least two classes" if blocks is None else "a column for each entry of questions"
        raise PoolInvalid(
            f"{name} have shape {array.shape}; expected ({', '.join([*letters, str(n_classes or 'c')])}) with "
            f"{columns}, one row for each embedding. Leave them out before the first model."
        )
    rows = array.reshape(-1, array.shape[-1])
    if blocks is not None:
        _check_answers(name, rows, blocks)
        return array
    good = (rows >= -SUM_TOLERANCE).all(axis=1) & (np.abs(rows.sum(axis=1) - 1) <= SUM_TOLERANCE)
    if not good.all():
        row = int(np.argmin(good))
        raise PoolInvalid(
            f"Row {row} of {name} is {np.array2string(rows[row, :5], precision=3)} with sum "
            f"{rows[row].sum():.4g} ({int((~good).sum())} such rows); expected numbers from 0 to 1 that sum to 1. "
            "Apply softmax to the logits."
        )
    return array


def _check_answers(name: str, rows: Floats32, blocks: Blocks) -> None:
    """Check the rows (r, c) question by question."""
    good = (rows >= -SUM_TOLERANCE) & (rows <= 1 + SUM_TOLERANCE)
    for columns in blocks:
        if len(columns) > 1:
            wrong = ~(np.abs(rows[:, columns].sum(axis=1) - 1) <= SUM_TOLERANCE)
            good[np.ix_(wrong, columns)] = False
    if good.all():
        return
    row, column = np.argwhere(~good)[0].tolist()
    block = next(columns for columns in blocks if column in columns)
    shown = np.array2string(rows[row, block[:5]], precision=3)
    n_wrong = int((~good).any(axis=1).sum())
    if len(block) == 1:
        raise PoolInvalid(
            f"Row {row} of {name} is {shown} in column {column} ({n_wrong} such rows); expected the probability of "
            "yes, from 0 to 1, because no other column answers that question. Apply the logistic function to the logit."
        )
    raise PoolInvalid(
        f"Row {row} of {name} is {shown} in the columns {block[:5].tolist()} with sum {rows[row, block].sum():.4g} "
        f"({n_wrong} such rows); expected numbers from 0 to 1 that sum to 1, because these columns answer one "
        "question. Apply softmax to its logits."
    )


def _doubts(values: ArrayLike, n: int) -> Floats:
    array: Floats = _numbers("doubts", values, np.float64, 2)
    if len(array) != n:
        raise PoolInvalid(
            f"doubts have shape {array.shape}; expected ({n}, q), one row for each embedding. Use NaN where a task was "
            "not judged."
        )
    wrong = ~((array >= 0) & (array <= 1) | np.isnan(array))
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        raise PoolInvalid(
            f"Row {row} of doubts is {array[row, column]:.4g} in column {column} ({int(wrong.sum())} such values); "
            "expected numbers from 0, certain, to 1, or NaN where a task was not judged. Scale them."
        )
    return array


def _costs(values: ArrayLike, n_classes: int | None, blocks: Blocks | None) -> Floats:
    array: Floats = _numbers("cost_matrix", values, np.float64, 2)
    size = len(array) if n_classes is None else n_classes
    if array.shape != (size, size):
        raise PoolInvalid(
            f"The cost matrix has shape {array.shape}; expected ({size}, {size}), a row for each true class and a "
            "column for each answer. Add the missing classes in the order of the label config."
        )
    looked_at = (array,) if blocks is None else [array[np.ix_(columns, columns)] for columns in blocks]
    if not (np.isfinite(array) & (array >= 0)).all() or not any(block.any() for block in looked_at):
        raise PoolInvalid(
            f"The cost matrix is {array.tolist()}; expected costs of 0 or more, at least one of them above 0 "
            "inside a question. Give the right answers cost 0 instead of giving them a gain."
        )
    return array


def _losses(values: ArrayLike, n: int) -> Floats:
    array: Floats = _numbers("predicted_loss", values, np.float64, 1)
    if len(array) != n or not np.isfinite(array).all():
        raise PoolInvalid(
            f"predicted_loss has {len(array)} entries, {int(np.isfinite(array).sum())} of them finite; expected {n}, "
            "one finite number for each embedding. Predict the loss of every task of the pool."
        )
    return array


def _counts(values: ArrayLike, n_classes: int | None) -> Floats:
    array: Floats = _numbers("labelled_counts", values, np.float64, 1)
    if n_classes is not None and len(array) != n_classes:
        raise PoolInvalid(
            f"labelled_counts have {len(array)} entries, the pool has {n_classes} classes; expected one for each "
            "class. Count classes without labels as 0."
        )
    if not (np.isfinite(array) & (array >= 0)).all():
        raise PoolInvalid(f"labelled_counts are {array.tolist()}; expected numbers of labels, 0 or more. Count again.")
    return array


def _column(name: str, values: ArrayLike, n: int) -> NDArray[Any]:
    array = np.asarray(values)
    if array.shape != (n,):
        raise PoolInvalid(
            f"metadata field {name!r} has shape {array.shape}; expected ({n},), one value for each embedding. "
            "Use NaN or None where a task lacks the field."
        )
    return array


def _names(values: Sequence[str], n_classes: int | None) -> tuple[str, ...]:
    names = tuple(str(name) for name in values)
    if len(set(names)) != len(names) or (n_classes is not None and len(names) != n_classes):
        raise PoolInvalid(
            f"class_names are {list(names)}; expected {n_classes if n_classes is not None else 'c'} distinct labels. "
            "Pass the labels of the label config in order."
        )
    return names


def _ids(values: ArrayLike, n: int) -> Indices:
    array = np.asarray(values)
    if array.shape != (n,) or array.dtype.kind not in "iu" or len(np.unique(array)) != n:
        raise PoolInvalid(
            f"ids have shape {array.shape} and type {array.dtype}; expected ({n},) distinct integers. "
            "Pass the task ids."
        )
    return array.astype(np.int64)
