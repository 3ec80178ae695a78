"""Prometheus metrics, declared once.

The server counts its own requests here. What the records and Redis know, about work in other processes, is measured by
`web.measure` whenever somebody asks, under the names declared here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prometheus_client import Counter, Histogram

WEBHOOKS = Counter("lsb_webhooks_total", "Events received from Label Studio.", ["action"])
WEBHOOK_SECONDS = Histogram(
    "lsb_webhook_seconds",
    "Seconds from an event to its acknowledgement.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
)
PREDICTIONS = Counter("lsb_predictions_total", "Tasks answered by /predict.", ["source"])


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric whose values are read where they are kept, not counted in this process.

    Attributes:
        name: Without the "_total" of counters.
        labels: Names of its labels; their values are project ids, control names and words of ours.
    """

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    text: str
    labels: tuple[str, ...] = ()


UP = Measured("lsb_up", "gauge", "Whether a part answers: 1 or 0.", ("part",))
JOBS = Measured("lsb_jobs", "counter", "Jobs that ended, by how.", ("kind", "outcome"))
JOB_SECONDS = Measured("lsb_job_seconds", "histogram", "Seconds a job took.", ("kind",))
LABEL_STUDIO_ERRORS = Measured(
    "lsb_label_studio_errors", "counter", "Jobs that an error of Label Studio ended.", ("code", "status")
)
QUEUE_DEPTH = Measured("lsb_queue_depth", "gauge", "Jobs that wait.", ("queue",))
QUEUE_AGE = Measured("lsb_queue_age_seconds", "gauge", "Seconds the oldest waiting job has waited.", ("queue",))
WORKERS = Measured("lsb_workers", "gauge", "Workers alive.", ("queue",))
ORDER_APPLIED = Measured(
    "lsb_order_applied",
    "gauge",
    "1 when Label Studio serves our order, as of the last look: its sampling mode and model version are ours.",
    ("project",),
)
LAST_LOOK_SECONDS = Measured(
    "lsb_last_look_seconds", "gauge", "Seconds since the project was last compared with Label Studio.", ("project",)
)
PROBLEMS = Measured("lsb_problems", "gauge", 'Open problems; project is "" for the deployment.', ("project", "level"))
LABELS = Measured("lsb_labels", "gauge", "Labels a project has, as of the last update.", ("project",))
UNREAD = Measured("lsb_unread", "gauge", "Tasks whose image or text is still to be read.", ("project",))
WINDOW_LEFT = Measured("lsb_window_left", "gauge", "Unlabelled tasks left in the published window.", ("project",))
TASKS_LEFT = Measured("lsb_tasks_left", "gauge", "Unlabelled tasks of the project, in the window or not.", ("project",))
ACCURACY = Measured(
    "lsb_holdout_accuracy",
    "gauge",
    "Accuracy of the model version in force on the test set, else on the hold-out.",
    ("project",),
)
GENERATIONS_BEHIND = Measured("lsb_generations_behind", "gauge", "Events not yet covered by an update.", ("project",))
TRAININGS = Measured("lsb_trainings", "gauge", "Deeper trainings that wait or run.", ("project", "state"))
TRAINING_PROGRESS = Measured(
    "lsb_training_progress", "gauge", "Share of a running deeper training that is done.", ("project", "control")
)
