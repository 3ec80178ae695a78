"""What "Send Test Request" shows an admin: the state of a project, and what is known of the task that was sent.

Label Studio shows the entries of an answer of /predict as they are, also what it does not know, and nothing else that
a connected backend says. So this is the one place where somebody who sees only Label Studio can look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ls_backend.domain import ORDER_LOST, ModelVersion
from ls_backend.errors import QueueError
from ls_backend.jobs.queues import EMBED, RANK, Queues
from ls_backend.settings import ProjectSettings
from ls_backend.store import Project, Store

NEEDED = (RANK, EMBED)
"""Queues without whose workers nothing moves; deeper training may be left to another machine, or to nobody."""


@dataclass(frozen=True)
class Diagnosis:
    """One project, as one request sees it; what is asked for is read once.

    Attributes:
        version: Model version that answers; None before the first.
        task_ids: Tasks that were sent.
    """

    store: Store
    queues: Queues
    project: Project
    version: ModelVersion | None
    task_ids: Sequence[int]

    def of(self, task_id: int, why: str | None = None) -> dict[str, str]:
        """Return the diagnosis for one task.

        Args:
            task_id: The task.
            why: Why it has no prediction; None when it has one.
        """
        answer = {} if why is None else {"no_prediction": why}
        return {**answer, **self._about_project, "task": self._about_task(task_id)}

    def _about_task(self, task_id: int) -> str:
        if task_id not in self._places:
            return f"task {task_id} is not in the window: it was labelled, or others are worth more now"
        rank, reason = self._places[task_id]
        return f"task {task_id} has rank {rank}: {reason}" if reason else f"task {task_id} has rank {rank}"

    @cached_property
    def _about_project(self) -> dict[str, str]:
        return {
            "model": self._model(),
            "window": self._window(),
            "problems": self._problems_in_words(),
            "workers": self._workers(),
        }

    @cached_property
    def _problems(self) -> list[tuple[str, str, str]]:
        """Code, level and message of what is open, errors first and the newest of them on top."""
        found = [problem.finding for problem in self.store.problems.open(self.project.id)]
        found.sort(key=lambda finding: finding.level != "error")
        return [(finding.code, finding.level, finding.message) for finding in found]

    @cached_property
    def _places(self) -> Mapping[int, tuple[int, str]]:
        window = self.project.window_version
        return {} if window is None else self.store.windows.places(self.project.id, window, self.task_ids)

    def _model(self) -> str:
        labels = self.store.tasks.counts(self.project.id).labelled
        if self.version is None:
            needed = ProjectSettings.model_validate_json(self.project.settings_json or "{}").min_labels
            return f"no model yet: {labels} of {needed} labels"
        measured = self.version.metrics
        told = f"{self.version.version_id}, trained with {self.version.n_labels} of {labels} labels"
        if measured.accuracy is None:
            return told
        kept = "of the test set" if measured.test_set else "held out"
        return f"{told}, accuracy {measured.accuracy:.0%} on {measured.n_holdout} {kept}"

    def _window(self) -> str:
        version = self.project.window_version
        if version is None:
            return "no order has been published yet"
        left, whole = self.store.windows.left(self.project.id, version)
        lost = any(code in ORDER_LOST and level == "error" for code, level, _ in self._problems)
        return f"{version} is {'NOT in force' if lost else 'in force'}, {left} of {whole} tasks left"

    def _problems_in_words(self) -> str:
        if not self._problems:
            return "none"
        code, _, message = self._problems[0]
        return f"{len(self._problems)} open; {'the worst' if len(self._problems) > 1 else 'it'} is {code}: {message}"

    def _workers(self) -> str:
        try:
            alive = self.queues.workers()
        except QueueError as error:
            return str(error)
        missing = [name for name in NEEDED if not alive[name]]
        if missing:
            return f"no {' and no '.join(missing)} worker is alive, so nothing goes on: run `ls-backend start`"
        return ", ".join(f"{count} {name}" for name, count in alive.items())
