"""The tables, declared once. Everything in them can be rebuilt from Label Studio, except the history.

Every table but `problems` and `image_facts` hangs on a project and goes with it. Large columns stand last: SQLite then
reads the small ones of 100,000 tasks without touching them.
"""

from __future__ import annotations

import operator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    TypeDecorator,
    text,
)


class Id(TypeDecorator[int]):
    """A Label Studio id or a counter.

    NumPy integers are taken too: unconverted, SQLite would silently store them as bytes that match no integer.
    """

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Any | None, dialect: Dialect) -> int | None:  # noqa: ANN401 - SQLAlchemy's type
        """Turn anything that counts into a plain integer."""
        del dialect
        return None if value is None else operator.index(value)


class Utc(TypeDecorator[datetime]):
    """A moment: aware in Python, UTC in the database (SQLite has no time zones)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC; a moment without a time zone is our own mistake."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value.isoformat()} has no time zone; the store takes aware datetimes only.")
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the moment its time zone back."""
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Words(TypeDecorator[str]):
    """Text as it comes: error messages may quote anything. What UTF-8 or PostgreSQL cannot hold is escaped."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Escape lone surrogates, as in undecodable file names, and NUL."""
        del dialect
        if value is None:
            return None
        return value.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\0")


metadata = MetaData()


def _project() -> Column[int]:
    return Column("project_id", Id, ForeignKey("projects.id", ondelete="CASCADE"), nullable=False)


schema_version = Table(
    "schema_version",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("applied_at", Utc, nullable=False),
)

projects = Table(
    "projects",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=False),
    Column("origin", Text),
    Column("title", Words, nullable=False, default=""),
    Column("hostname", Text),
    Column("access_token", Text),
    Column("webhook_secret", Text),
    Column("webhook_url", Text),
    Column("backend_id", Id),
    Column("active", Boolean, nullable=False, default=True),
    Column("wanted_generation", Id, nullable=False, default=0),
    Column("done_generation", Id, nullable=False, default=0),
    Column("published_generation", Id, nullable=False, default=0),
    Column("sequence", Id, nullable=False, default=0),
    Column("round", Id, nullable=False, default=0),
    Column("window_version", Text),
    Column("pending_version", Text),
    Column("pinned_version", Text),
    Column("pinned_at", Utc),
    Column("synced_until", Utc),
    Column("reconciled_at", Utc),
    Column("updated_at", Utc, nullable=False),
    Column("last_error", Words),
    Column("settings_json", Text),
    Column("said_params", Text),
    Column("label_config", Text),
)

settings_revisions = Table(
    "settings_revisions",
    metadata,
    _project(),
    Column("revision", Id, nullable=False),
    Column("source", Text, nullable=False),
    Column("who", Words, nullable=False),
    Column("at", Utc, nullable=False),
    Column("settings_json", Text, nullable=False),
    PrimaryKeyConstraint("project_id", "revision"),
)

events = Table(
    "events",
    metadata,
    _project(),
    Column("generation", Id, nullable=False),
    Column("action", Text, nullable=False),
    Column("task_id", Id),
    Column("annotation_id", Id),
    Column("received_at", Utc, nullable=False),
    PrimaryKeyConstraint("project_id", "generation"),
)

tasks = Table(
    "tasks",
    metadata,
    _project(),
    Column("task_id", Id, nullable=False),
    Column("updated_at", Utc, nullable=False),
    Column("is_labeled", Boolean, nullable=False),
    Column("total_annotations", Integer, nullable=False),
    Column("cancelled_annotations", Integer, nullable=False),
    Column("holdout", Boolean, nullable=False, default=False),
    Column("content_hash", Text),
    Column("label", Text),
    Column("label_problem", Words),
    Column("image_error", Words),
    Column("image_error_at", Utc),
    Column("image", Words),
    Column("data", JSON, nullable=False),
    PrimaryKeyConstraint("project_id", "task_id"),
    Index("tasks_unread", "project_id", "content_hash"),
)

# Drawn once; a table of its own, because few tasks are in it and none ever leaves it.
test_tasks = Table(
    "test_tasks",
    metadata,
    _project(),
    Column("task_id", Id, nullable=False),
    PrimaryKeyConstraint("project_id", "task_id"),
)

task_annotations = Table(
    "annotations",
    metadata,
    _project(),
    Column("annotation_id", Id, nullable=False),
    Column("task_id", Id, nullable=False),
    Column("was_cancelled", Boolean, nullable=False),
    Column("ground_truth", Boolean, nullable=False),
    Column("completed_by", Id),
    Column("created_at", Utc, nullable=False),
    Column("updated_at", Utc, nullable=False),
    Column("result", JSON, nullable=False),
    PrimaryKeyConstraint("project_id", "annotation_id"),
    Index("annotations_of_task", "project_id", "task_id"),
)

versions = Table(
    "versions",
    metadata,
    _project(),
    Column("version_id", Text, nullable=False),
    Column("round", Id, nullable=False),
    Column("backbone", Text, nullable=False),
    Column("n_labels", Integer, nullable=False),
    Column("labels_digest", Text, nullable=False),
    Column("temperature", Float, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", Utc, nullable=False),
    Column("reason", Words),
    Column("metrics", JSON, nullable=False),
    Column("classes", JSON, nullable=False),
    Column("questions", JSON, nullable=False),
    PrimaryKeyConstraint("project_id", "version_id"),
    CheckConstraint("state IN ('promoted', 'rejected', 'retired')", name="known_state"),
)

# By content, not by project: the same image is measured once, like its embedding.
image_facts = Table(
    "image_facts",
    metadata,
    Column("content_hash", Text, primary_key=True),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("n_bytes", Id, nullable=False),
    Column("sharpness", Float, nullable=False),
    Column("luminance", Float, nullable=False),
    Column("contrast", Float, nullable=False),
)

windows = Table(
    "windows",
    metadata,
    _project(),
    Column("version", Text, nullable=False),
    Column("ordinal", Id, nullable=False),
    Column("generation", Id, nullable=False),
    Column("model_version_id", Text),
    Column("n_labels", Integer, nullable=False),
    Column("n_tasks", Integer, nullable=False),
    Column("created_at", Utc, nullable=False),
    Column("flipped_at", Utc),
    Column("replaced_at", Utc),
    Column("collected_at", Utc),
    PrimaryKeyConstraint("project_id", "version"),
    Index("windows_in_order", "project_id", "ordinal"),
)

window_rows = Table(
    "window_rows",
    metadata,
    _project(),
    Column("version", Text, nullable=False),
    Column("task_id", Id, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("utility", Float),
    Column("reason", Words, nullable=False),
    Column("factors", JSON, nullable=False),
    Column("ratios", JSON, nullable=False),
    Column("probabilities", JSON(none_as_null=True)),
    PrimaryKeyConstraint("project_id", "version", "task_id"),
)

kept_predictions = Table(
    "kept_predictions",
    metadata,
    _project(),
    Column("prediction_id", Id, nullable=False),
    Column("task_id", Id, nullable=False),
    Column("version", Text, nullable=False),
    Column("kept_at", Utc, nullable=False),
    PrimaryKeyConstraint("project_id", "prediction_id"),
)

answers = Table(
    "answers",
    metadata,
    _project(),
    Column("model_version_id", Text, nullable=False),
    Column("task_id", Id, nullable=False),
    Column("probabilities", JSON, nullable=False),
    PrimaryKeyConstraint("project_id", "model_version_id", "task_id"),
)

insights = Table(
    "insights",
    metadata,
    _project(),
    Column("kind", Text, nullable=False),
    Column("made_at", Utc, nullable=False),
    Column("content", JSON, nullable=False),
    PrimaryKeyConstraint("project_id", "kind"),
)

# project_id 0 means the whole deployment: a NULL would not take part in the primary key.
problems = Table(
    "problems",
    metadata,
    Column("project_id", Id, nullable=False),
    Column("code", Text, nullable=False),
    Column("subject", Words, nullable=False),
    Column("level", Text, nullable=False),
    Column("message", Words, nullable=False),
    Column("remedy", Words, nullable=False),
    Column("context", JSON, nullable=False),
    Column("count", Integer, nullable=False),
    Column("first_seen", Utc, nullable=False),
    Column("last_seen", Utc, nullable=False),
    PrimaryKeyConstraint("project_id", "code", "subject"),
)

runs = Table(
    "runs",
    metadata,
    Column("run_id", Integer, primary_key=True),
    _project(),
    Column("kind", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("started_at", Utc, nullable=False),
    Column("finished_at", Utc),
    Column("n_labels", Integer),
    Column("window_version", Text),
    Column("error", Words),
    Column("seconds", JSON, nullable=False),
    Index("runs_of_project", "project_id", "run_id"),
)

trainings = Table(
    "trainings",
    metadata,
    Column("training_id", Integer, primary_key=True),
    _project(),
    Column("control", Words, nullable=False),
    Column("state", Text, nullable=False),
    Column("n_labels", Integer, nullable=False),
    Column("labels_until", Utc),
    Column("asked_at", Utc, nullable=False),
    Column("started_at", Utc),
    Column("finished_at", Utc),
    Column("reported_at", Utc),
    Column("deaths", Integer, nullable=False, default=0),
    Column("cancel_requested", Boolean, nullable=False, default=False),
    Column("version_id", Text),
    Column("error", Words),
    Column("progress", JSON, nullable=False),
    Column("classes", JSON, nullable=False),
    CheckConstraint("state IN ('queued', 'running', 'done', 'failed', 'cancelled')", name="known_training_state"),
    Index("trainings_of_project", "project_id", "control", "training_id"),
)

# Whoever asks, and however many do so at once: at most one training of a control is wanted or under way.
Index(
    "one_open_training",
    trainings.c.project_id,
    trainings.c.control,
    unique=True,
    sqlite_where=text("state IN ('queued', 'running')"),
    postgresql_where=text("state IN ('queued', 'running')"),
)

deep_versions = Table(
    "deep_versions",
    metadata,
    _project(),
    Column("version_id", Text, nullable=False),
    Column("control", Words, nullable=False),
    Column("kind", Text, nullable=False),
    Column("number", Id, nullable=False),
    Column("backbone", Text, nullable=False),
    Column("n_labels", Integer, nullable=False),
    Column("labels_digest", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", Utc, nullable=False),
    Column("reason", Words),
    Column("metrics", JSON, nullable=False),
    Column("classes", JSON, nullable=False),
    PrimaryKeyConstraint("project_id", "version_id"),
    CheckConstraint("state IN ('promoted', 'rejected', 'retired')", name="known_deep_state"),
)

inferences = Table(
    "inferences",
    metadata,
    _project(),
    Column("control", Words, nullable=False),
    Column("task_id", Id, nullable=False),
    Column("version_id", Text, nullable=False),
    Column("uncertainty", Float),
    Column("presence", JSON, nullable=False),
    Column("embedding", LargeBinary, nullable=False),
    Column("scores", JSON, nullable=False),
    Column("result", JSON, nullable=False),
    PrimaryKeyConstraint("project_id", "control", "task_id"),
)
