"""A foreign model as the worker uses it: batches in, an answer or a failure for every task out."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from ls_backend import errors
from ls_backend.errors import ForeignModelFailed
from ls_backend.foreign.answers import Answer, Failure, FailureKind, read_entry
from ls_backend.foreign.order import Order
from ls_backend.foreign.process import Lost, ModelProcess

BATCH = 16
"""Tasks a model is asked for at once."""

_LOSSES_BORNE = 3  # hangs and deaths in a row; each costs the time-out and a start
_FAILURES_BORNE = 24  # of any kind in a row: more than a batch asked again one by one


class Predictor:
    """Any model of label-studio-ml, in a process that stays warm between calls and is started again when it ends.

    One call at a time; a second one waits. Use it from a thread that lives as long as the predictor, the main thread
    of a worker: on Linux the model's process ends with the thread that started it.

    Args:
        path: "package.module:ClassName", as the setting `model`. The module is looked for where the worker's Python
            looks, and in its working directory.
        label_config: XML of the labelling interface.
        folder: Where the model keeps what it learns, one for each project and model; made when missing. A predictor
            made on the same folder later goes on from there.
        timeout_s: Seconds a call for a batch of tasks may take.
        project_id: Label Studio's id of the project.
        hostname: Label Studio's address, for models that read files from there; "" when they must not.
        access_token: Label Studio's token for the same.
        load_timeout_s: Seconds the model may take to be imported and constructed.
        fit_timeout_s: Seconds it may learn.
    """

    def __init__(
        self,
        path: str,
        label_config: str,
        folder: Path,
        timeout_s: float,
        *,
        project_id: int = 0,
        hostname: str = "",
        access_token: str = "",
        load_timeout_s: float = 300.0,
        fit_timeout_s: float = 600.0,
    ) -> None:
        self.path = path
        self.timeout_s = timeout_s
        self.load_timeout_s = load_timeout_s
        self.fit_timeout_s = fit_timeout_s
        self._order = Order(path, label_config, str(folder.resolve()), project_id, hostname, access_token)
        self._process: ModelProcess | None = None
        self._version = ""
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def version(self) -> str:
        """State of learning the last answers came from: "initial", "fit-1", "fit-2"...; "" before the first call."""
        return self._version

    def predict(self, tasks: Sequence[dict[str, Any]], context: dict[str, Any] | None = None) -> list[Answer | Failure]:
        """Ask the model, in batches.

        A batch that fails is asked again one task at a time, so that a task it cannot digest costs only itself. After
        3 hangs or deaths, or 24 failures of any kind, without an answer between them the remaining tasks are given up.

        Args:
            tasks: As Label Studio sends them, with `id` and `data`.
            context: In interactive pre-annotation what `/predict` carries as `params.context`: `{"result": [...]}`,
                the regions the annotator has drawn so far. The task then has annotations, drafts and predictions.

        Returns:
            An answer or a failure for each task, in order.

        Raises:
            ForeignModelUnknown: The path leads to no model.
            ForeignModelFailed: The model cannot be constructed.
        """
        with self._turn:
            self._running()
            patience = _Patience()
            found: list[Answer | Failure] = []
            for start in range(0, len(tasks), BATCH):
                found += self._ask(tasks[start : start + BATCH], context, patience)
            return found

    def fit(self, tasks_with_annotations: Sequence[dict[str, Any]], event: str) -> None:
        """Let the model learn from labelled tasks; afterwards it predicts with what it has learned.

        Args:
            tasks_with_annotations: Tasks with `data` and `annotations` as Label Studio sends them. Cancelled
                annotations, and tasks without any other, are left out.
            event: "START_TRAINING" to learn from all of them. With another, such as "ANNOTATION_CREATED", a model of
                the 2.x interface is called once for each annotation, as by webhooks.

        Raises:
            ForeignModelUnknown: The path leads to no model.
            ForeignModelFailed: It cannot be constructed, raised, gave no answer in time or ended its process; what it
                had learned before stays in force.
        """
        request = {"do": "fit", "tasks": list(tasks_with_annotations), "event": event}
        with self._turn:
            try:
                answer = self._running().ask(request, self.fit_timeout_s)
            except Lost as lost:
                raise ForeignModelFailed(f"Model {self.path} did not learn: {lost}.") from lost
            self._version = answer["version"]
            if "raised" in answer:
                raise ForeignModelFailed(f"Model {self.path} did not learn: fit raised {answer['raised']}.")

    def close(self) -> None:
        """End the model's process; the next call starts a new one."""
        if self._process is not None:
            self._process.end()

    def _ask(
        self, tasks: Sequence[dict[str, Any]], context: dict[str, Any] | None, patience: _Patience
    ) -> list[Answer | Failure]:
        ids = [int(task["id"]) for task in tasks]
        if patience.is_over:
            return [Failure(task_id, "given-up", patience.message) for task_id in ids]
        try:
            entries = self._entries(tasks, context)
        except _Refused as refusal:
            patience.strain(refusal)
            if len(tasks) == 1:
                return [Failure(ids[0], refusal.kind, str(refusal))]
            return [found for task in tasks for found in self._ask([task], context, patience)]
        patience.renew()
        return [read_entry(task_id, entry) for task_id, entry in zip(ids, entries, strict=True)]

    def _entries(self, tasks: Sequence[dict[str, Any]], context: dict[str, Any] | None) -> list[Any]:
        request = {"do": "predict", "tasks": list(tasks), "context": context}
        try:
            answer = self._running().ask(request, self.timeout_s)
        except Lost as lost:
            raise _Refused(lost.kind, f"The model did not answer: {lost}.") from lost
        except ForeignModelFailed as error:  # it could be constructed once, so the rest of the tasks is given a chance
            raise _Refused("died", str(error)) from error
        self._version = answer["version"]
        if "raised" in answer:
            raise _Refused("raised", f"The model raised {answer['raised']}.")
        entries: list[Any] = answer["entries"]
        if len(entries) != len(tasks):
            raise _Refused(
                "wrong-count", f"The model gave {len(entries)} entries for {len(tasks)} tasks; expected one for each."
            )
        return entries

    def _running(self) -> ModelProcess:
        """Return the model's process, started and loaded."""
        if self._process is not None and self._process.is_alive:
            return self._process
        if self._process is not None:
            self._process.end()
        self._process = process = ModelProcess(self._order)
        try:
            answer = process.load(self.load_timeout_s)
        except Lost as lost:
            raise ForeignModelFailed(f"Model {self.path} could not be constructed: {lost}.") from lost
        if "refused" in answer:
            process.end()
            kind: type[errors.ForeignModelError] = getattr(errors, answer["refused"])
            raise kind(answer["message"], hint=answer["hint"])
        self._version = answer["version"]
        return process


class _Refused(Exception):
    """A call for some tasks failed; which of them is to blame is not known."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class _Patience:
    """How often a model may fail in a row before the rest of the tasks is not asked."""

    def __init__(self) -> None:
        self._losses = 0
        self._failures = 0
        self._last = ""

    @property
    def is_over(self) -> bool:
        return self._losses >= _LOSSES_BORNE or self._failures >= _FAILURES_BORNE

    @property
    def message(self) -> str:
        return f"Not asked: the model failed {self._failures} times in a row, the last time so: {self._last}"

    def strain(self, refusal: _Refused) -> None:
        self._failures += 1
        self._losses += refusal.kind in {"hung", "died"}
        self._last = str(refusal)

    def renew(self) -> None:
        self._losses = self._failures = 0
