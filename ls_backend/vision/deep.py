"""Deeper training: the words shared by the detector and the segmenter, and the loop that trains both.

A training may be killed at any moment and started again: every epoch draws from a generator of its own, seeded by the
recipe and the number of the epoch, and weights, optimiser and counters lie in one file that is replaced atomically. So
the second process goes on where the first one was, and on the same machine ends with the same weights.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as dump_tensors
from torch import nn

from ls_backend.errors import Diverged, StoreError

Indices = NDArray[np.int64]
Stopped = Literal["done", "early", "time", "cancelled"]

_CHECKPOINT = "training.safetensors"
_FORMAT = "1"
_WRITING = 0.05  # of the time at most goes into checkpoints
_ASK_S = 1.0
_WARM_UP = 0.05  # of all epochs
_LOWEST = 0.02  # of the peak learning rate, at the end
_LONGEST_GRADIENT = 5.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training is.

    Attributes:
        epoch: Epochs completed; 0 while the images are prepared.
        epochs: Epochs planned; shrinks when the time budget will not hold them all.
        loss: Mean training loss of the last completed epoch; None before.
        seconds: Spent so far, those of killed processes included.
        metric: Of the last measuring on the hold-out; None before, and without a hold-out.
    """

    epoch: int
    epochs: int
    loss: float | None
    seconds: float
    metric: float | None


Report = Callable[[Progress], bool]
"""Called after every epoch and about every second; False cancels the training."""


class Examples(Protocol):
    """Labelled images that need not lie in memory at once. What a label is, the detector and the segmenter add."""

    def __len__(self) -> int:
        """Count the images."""

    def image(self, i: int) -> NDArray[np.uint8]:
        """Read image i: (h, w, 3) upright RGB, already scaled."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train.

    Attributes:
        n_classes: Classes of the label config.
        finetune: Whether the backbone learns as well.
        seconds: Longest time, preparing and measuring included.
        seed: Decides initial weights, order and augmentation.
        device: As in `backbones.load`.
        epochs: Passes over the images at most; None leaves it to the model.
    """

    n_classes: int
    finetune: bool = False
    seconds: float = 600.0
    seed: int = 0
    device: str = "auto"
    epochs: int | None = None


@dataclass(frozen=True, eq=False)
class Fitted:
    """What a training makes.

    Attributes:
        arrays: For a checkpoint of `vision.checkpoints`; what the model's `load` wants.
        metrics: Of the hold-out, by name; empty without one.
        stopped: Why it ended.
    """

    arrays: dict[str, NDArray[Any]]
    metrics: dict[str, float]
    stopped: Stopped


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to learn.

    Attributes:
        epochs: Passes over the images.
        batch: Images a step.
        patience: Epochs without a better metric after which the training stops early.
        measure_every: Epochs between two measurings on the hold-out.
    """

    epochs: int
    batch: int
    patience: int
    measure_every: int = 1


class Watch:
    """The time budget of a training, and whether somebody cancelled it."""

    def __init__(self, budget_s: float, report: Report) -> None:
        """Start the clock.

        Args:
            budget_s: Longest time.
            report: Told the progress; False cancels.
        """
        self.budget_s = budget_s
        self.before_s = 0.0  # spent by processes that were killed
        self.cancelled = False
        self._report = report
        self._started = self._asked = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self.before_s + time.monotonic() - self._started

    def interrupted(self, progress: Progress, *, now: bool = False) -> Stopped | None:
        """Report the progress if a second has passed, or at once, and say whether to stop; once cancelled, it stays."""
        if not self.cancelled and (now or time.monotonic() - self._asked >= _ASK_S):
            self._asked = time.monotonic()
            self.cancelled = not self._report(progress)
        if self.cancelled:
            return "cancelled"
        return "time" if self.seconds >= self.budget_s else None


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Make what torch draws inside depend on the seed alone, and leave its global generators as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def fingerprint(**facts: object) -> str:
    """Digest what makes two trainings the same one.

    Args:
        facts: Values whose `repr` is complete, and arrays of any shape, which count by their values.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in sorted(facts):
        fact = facts[name]
        digest.update(f"{name}={fact.tolist() if isinstance(fact, np.ndarray) else fact!r};".encode())
    return digest.hexdigest()[:16]


@dataclass
class _State:
    """What changes from epoch to epoch, besides weights and optimiser; JSON can hold it."""

    epoch: int = 0
    loss: float | None = None
    metric: float | None = None
    best: float | None = None
    best_epoch: int = 0
    seconds: float = 0.0
    looped: float = 0.0  # those of the epochs alone
    stopped: Stopped | None = None


@dataclass(eq=False)
class Course:
    """One training: all that lives and is saved together.

    Attributes:
        network: Learns in place.
        optimizer: Over the parameters that learn, each group at its peak learning rate.
        loss_of: Mean loss of a batch of examples (b,); draws what it needs from the generator.
        measure: Metric on the hold-out, higher is better; None without a hold-out.
        learn: (m,) int64, the examples to learn from.
        schedule: Epochs, batch size, patience.
        seed: With the number of an epoch it decides everything that the epoch draws.
        watch: Started before the images were prepared.
        identity: Fingerprint; a checkpoint with another one is not continued but overwritten.
        folder: For the checkpoint; None keeps none.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    loss_of: Callable[[Indices, np.random.Generator], torch.Tensor]
    measure: Callable[[], float] | None
    learn: Indices
    schedule: Schedule
    seed: int
    watch: Watch
    identity: str
    folder: Path | None

    def __post_init__(self) -> None:
        self._state = _State()
        self._best: dict[str, torch.Tensor] = {}
        self._peaks = [float(group["lr"]) for group in self.optimizer.param_groups]
        self._written_at, self._writing_s = -math.inf, 0.0

    def run(self) -> Stopped:
        """Train until the epochs are through, the hold-out gains no more, the time is up or somebody cancels.

        The learning rates rise to their peaks, then fall along half a cosine. When the time budget will not hold all
        epochs the plan is shortened, so that they fall in time. Afterwards the network holds the weights that were best
        on the hold-out, or the last ones without a hold-out.

        Returns:
            Why it stopped.

        Raises:
            Diverged: If a loss is not finite.
        """
        self._resume()
        stopped = self._state.stopped or self.watch.interrupted(self._progress(), now=True)
        while stopped is None:
            stopped = self._epoch() or self._verdict()
        if self._best:
            self.network.load_state_dict(self._best)
        return stopped

    def _epoch(self) -> Stopped | None:
        """Learn from every example once; returns why it broke off."""
        state, started = self._state, time.monotonic()
        rng = np.random.default_rng([self.seed, state.epoch])
        batches = np.array_split(rng.permutation(self.learn), math.ceil(len(self.learn) / self.schedule.batch) or 1)
        planned, losses = self._planned(), []
        for k, batch in enumerate(batches):
            share = _rate((state.epoch + k / len(batches)) / planned)
            for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
                group["lr"] = peak * share
            losses.append(self._step(batch, rng))
            if (stopped := self.watch.interrupted(self._progress())) is not None:
                return stopped
        state.epoch, state.loss = state.epoch + 1, float(np.mean(losses))
        if self.measure is not None and (state.epoch % self.schedule.measure_every == 0 or state.epoch >= planned):
            state.metric = self.measure()
            if state.best is None or state.metric >= state.best:  # of equals the later one has learnt more
                state.best, state.best_epoch = state.metric, state.epoch
                self._best = {name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()}
        state.looped += time.monotonic() - started
        return None

    def _step(self, batch: Indices, rng: np.random.Generator) -> float:
        loss = self.loss_of(batch, rng)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise Diverged(
                f"The training loss became {value} in epoch {self._state.epoch + 1}; expected a finite number. "
                "Look for damaged images or regions among the newest labels."
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for group in self.optimizer.param_groups:
            nn.utils.clip_grad_norm_(group["params"], _LONGEST_GRADIENT)
        self.optimizer.step()
        return value

    def _verdict(self) -> Stopped | None:
        """Decide between two epochs whether to go on, and write the checkpoint."""
        state, planned = self._state, self._planned()
        if state.epoch >= planned:
            state.stopped = "done" if planned == self.schedule.epochs else "time"
        elif state.best is not None and state.epoch - state.best_epoch >= self.schedule.patience:
            state.stopped = "early"
        stopped = self.watch.interrupted(self._progress(), now=True)
        self._save()
        return state.stopped or stopped

    def _planned(self) -> int:
        """Epochs that the time budget holds, of those in the schedule."""
        state = self._state
        if state.epoch == 0:
            return self.schedule.epochs
        left = max(0.0, self.watch.budget_s - self.watch.seconds)
        return min(self.schedule.epochs, state.epoch + int(left * state.epoch / state.looped))

    def _progress(self) -> Progress:
        state = self._state
        return Progress(state.epoch, self._planned(), state.loss, self.watch.seconds, state.metric)

    def _save(self) -> None:
        """Replace the checkpoint, unless that would take too large a share of the time."""
        if self.folder is None:
            return
        since = time.monotonic() - self._written_at
        if self._state.stopped is None and self._writing_s > _WRITING * since:
            return
        started = time.monotonic()
        self._state.seconds = self.watch.seconds
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self._best.items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": torch.as_tensor(value) for name, value in moments.items()}
        facts = {"format": _FORMAT, "identity": self.identity, "state": json.dumps(asdict(self._state))}
        data = dump_tensors({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, facts)
        _replace(self.folder / _CHECKPOINT, data)
        self._written_at = time.monotonic()
        self._writing_s = self._written_at - started

    def _resume(self) -> None:
        """Take over the checkpoint of the same training, if there is one that can be read."""
        path = None if self.folder is None else self.folder / _CHECKPOINT
        if path is None or not path.is_file():
            return
        try:
            with safe_open(path, framework="pt") as file:
                facts = file.metadata() or {}
                if (facts.get("format"), facts.get("identity")) != (_FORMAT, self.identity):
                    return
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (SafetensorError, OSError):  # damaged from outside: what it held can be learnt again
            return
        parts: dict[str, dict[str, torch.Tensor]] = {"network": {}, "best": {}, "optimizer": {}}
        for key, tensor in tensors.items():
            part, _, name = key.partition(".")
            parts[part][name] = tensor
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for key, tensor in parts["optimizer"].items():
            i, _, name = key.partition(".")
            moments.setdefault(int(i), {})[name] = tensor
        self.network.load_state_dict(parts["network"])
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self._best = parts["best"]
        self._state = _State(**json.loads(facts["state"]))
        self.watch.before_s = self._state.seconds


def _rate(done: float) -> float:
    """Share of the peak learning rate when a share `done` of the plan is done."""
    if done < _WARM_UP:
        return _LOWEST + (1.0 - _LOWEST) * done / _WARM_UP
    falling = min(1.0, (done - _WARM_UP) / (1.0 - _WARM_UP))
    return _LOWEST + (1.0 - _LOWEST) * 0.5 * (1.0 + math.cos(math.pi * falling))


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that a reader meets the old one or the new one, also after a crash.

    Raises:
        StoreError: If the disk refuses.
    """
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise StoreError(f"The checkpoint of a training cannot be written to {path.name}: {error}.") from error
