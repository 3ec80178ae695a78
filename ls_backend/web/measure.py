"""What /metrics says about work in other processes: read from the records and from Redis whenever somebody asks.

Nothing is kept between two calls, so a project that is forgotten is gone from the metrics, and the number of time
series is bounded by what is connected. Where Redis or the database is away the rest is answered, and `lsb_up` says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from ls_backend import logs, metrics
from ls_backend.domain import ORDER_LOST
from ls_backend.engine import outlook
from ls_backend.errors import BackendError, QueueError
from ls_backend.jobs.queues import Queues
from ls_backend.jobs.tally import BUCKETS_S, Tally
from ls_backend.metrics import Measured
from ls_backend.store import Project, Store

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

log = logs.get(__name__)

Sample = tuple[Measured, Sequence[str], float]
LEVELS = ("warning", "error")


def answer(store: Store, queues: Queues) -> bytes:
    """Return everything in Prometheus' text format: what this process counts, then what is measured now."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Now(store, queues))
    return generate_latest() + generate_latest(registry)


class _Now(Collector):
    def __init__(self, store: Store, queues: Queues) -> None:
        self._store = store
        self._queues = queues

    def collect(self) -> Iterator[Metric]:
        """Yield every measured metric."""
        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        up = {"redis": 1.0, "records": 1.0}
        samples: list[Sample] = []
        histogram = HistogramMetricFamily(
            metrics.JOB_SECONDS.name, metrics.JOB_SECONDS.text, labels=metrics.JOB_SECONDS.labels
        )
        try:
            counted = self._queues.tally()
            samples += _of_queues(self._queues, counted)
            _add_durations(histogram, counted)
        except QueueError as error:
            up["redis"] = 0.0
            log.warning("metrics without Redis", reason=str(error))
        try:
            samples += _of_records(self._store)
        except BackendError as error:
            up["records"] = 0.0
            log.warning("metrics without records", reason=str(error))
        samples += [(metrics.UP, (part,), value) for part, value in up.items()]
        for measured, labels, value in samples:
            if measured.name not in families:
                family = CounterMetricFamily if measured.kind == "counter" else GaugeMetricFamily
                families[measured.name] = family(measured.name, measured.text, labels=measured.labels)
            families[measured.name].add_metric(labels, value)
        yield from families.values()
        yield histogram


def _of_queues(queues: Queues, tally: Tally) -> Iterator[Sample]:
    for outcome, count in tally.jobs.items():
        yield metrics.JOBS, outcome, count
    for refusal, count in tally.refusals.items():
        yield metrics.LABEL_STUDIO_ERRORS, refusal, count
    for measured, by_queue in (
        (metrics.QUEUE_DEPTH, queues.depths()),
        (metrics.QUEUE_AGE, queues.ages()),
        (metrics.WORKERS, queues.workers()),
    ):
        for name, value in by_queue.items():
            yield measured, (name,), value


def _add_durations(histogram: HistogramMetricFamily, tally: Tally) -> None:
    bounds = [*map(str, BUCKETS_S), "+Inf"]
    for kind, made in tally.durations.items():
        buckets = list(zip(bounds, map(float, accumulate(made.counts)), strict=True))
        histogram.add_metric((kind,), buckets, made.sum_s)


def _of_records(store: Store) -> Iterator[Sample]:
    problems = [(problem.project_id, problem.finding) for problem in store.problems.open_anywhere()]
    for level in LEVELS:
        count = sum(project_id is None and finding.level == level for project_id, finding in problems)
        yield metrics.PROBLEMS, ("", level), count
    for project in store.projects.active():
        name = (str(project.id),)
        mine = [finding for project_id, finding in problems if project_id == project.id]
        for level in LEVELS:
            yield metrics.PROBLEMS, (*name, level), sum(finding.level == level for finding in mine)
        lost = any(finding.level == "error" and finding.code in ORDER_LOST for finding in mine)
        yield metrics.ORDER_APPLIED, name, float(project.window_version is not None and not lost)
        yield from _of_project(store, project)
        yield from _of_trainings(store, project.id)


def _of_project(store: Store, project: Project) -> Iterator[Sample]:
    name = (str(project.id),)
    counts = store.tasks.counts(project.id)
    yield metrics.LABELS, name, counts.labelled
    yield metrics.UNREAD, name, counts.unread
    yield metrics.TASKS_LEFT, name, len(store.tasks.available(project.id))
    window = project.window_version
    yield metrics.WINDOW_LEFT, name, 0 if window is None else store.windows.left(project.id, window)[0]
    yield metrics.GENERATIONS_BEHIND, name, project.wanted_generation - project.done_generation
    if project.reconciled_at is not None:
        yield metrics.LAST_LOOK_SECONDS, name, (datetime.now(UTC) - project.reconciled_at).total_seconds()
    serving = store.versions.in_force(project.id)
    if serving is not None and serving.metrics.accuracy is not None:
        yield metrics.ACCURACY, name, serving.metrics.accuracy


def _of_trainings(store: Store, project_id: int) -> Iterator[Sample]:
    trainings = store.trainings.open(project_id)
    for state in ("queued", "running"):
        yield metrics.TRAININGS, (str(project_id), state), sum(item.state == state for item in trainings)
    for item in trainings:
        share = outlook.of_training(item).share
        if item.state == "running" and share is not None:
            yield metrics.TRAINING_PROGRESS, (str(project_id), item.control), share
