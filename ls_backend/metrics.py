"""Prometheus metrics, declared once. Any floor above may count."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

WEBHOOKS = Counter("lsb_webhooks_total", "Events received from Label Studio.", ["action"])
WEBHOOK_SECONDS = Histogram(
    "lsb_webhook_seconds",
    "Seconds from an event to its acknowledgement.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
)
PREDICTIONS = Counter("lsb_predictions_total", "Tasks answered by /predict.", ["source"])
PROBLEMS = Gauge("lsb_problems", "Open problems of a project.", ["project"])
LABELS = Gauge("lsb_labels", "Labels a project has, as of the last update.", ["project"])
WINDOW_LEFT = Gauge("lsb_window_left", "Unlabelled tasks left in the published window.", ["project"])
ACCURACY = Gauge(
    "lsb_holdout_accuracy", "Accuracy of the model version in force on the test set, else on the hold-out.", ["project"]
)
GENERATIONS_BEHIND = Gauge("lsb_generations_behind", "Events not yet covered by an update.", ["project"])
