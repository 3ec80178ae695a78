"""Numbered, forward-only changes of the tables; run whenever a `Store` opens.

Step 1 creates today's tables, so a later step looks before it changes: on a fresh database there is nothing to do.
Several processes may start at once: the first does the work, the others wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, func, insert, inspect, select, text, update

from ls_backend.errors import StoreError
from ls_backend.store import schema
from ls_backend.store.database import Database

_LOCK = 4_715_302_891  # any number nobody else takes as a PostgreSQL advisory lock


@dataclass(frozen=True, slots=True)
class Migration:
    """One step.

    Attributes:
        number: Counts from 1 without gaps.
        apply: Changes the tables on the given connection; harmless when they already have the change.
    """

    number: int
    name: str
    apply: Callable[[Connection], None]


def _questions(connection: Connection) -> None:
    """Versions knew one question only, a single choice."""
    if "questions" in {column["name"] for column in inspect(connection).get_columns("versions")}:
        return
    connection.execute(text("ALTER TABLE versions ADD COLUMN questions JSON"))
    versions = schema.versions
    for row in connection.execute(select(versions.c.project_id, versions.c.version_id, versions.c.classes)).all():
        mine = (versions.c.project_id == row.project_id, versions.c.version_id == row.version_id)
        connection.execute(update(versions).where(*mine).values(questions=[0] * len(row.classes)))


def _revisions(connection: Connection) -> None:
    """Settings had no history, and what Label Studio said last was what was in force."""
    schema.metadata.create_all(connection)
    if "said_params" not in {column["name"] for column in inspect(connection).get_columns("projects")}:
        connection.execute(text("ALTER TABLE projects ADD COLUMN said_params TEXT"))
    projects, revisions = schema.projects, schema.settings_revisions
    configured = select(projects.c.id, projects.c.settings_json, projects.c.updated_at).where(
        projects.c.settings_json.is_not(None),
        projects.c.id.not_in(select(revisions.c.project_id)),
    )
    for row in connection.execute(configured).all():
        connection.execute(
            insert(revisions).values(
                project_id=row.id,
                revision=1,
                source="label-studio",
                who="anonymous",
                at=row.updated_at,
                settings_json=row.settings_json,
            )
        )


def _reasons(connection: Connection) -> None:
    """Why the gate refused a version stood in the log only."""
    if "reason" not in {column["name"] for column in inspect(connection).get_columns("versions")}:
        connection.execute(text("ALTER TABLE versions ADD COLUMN reason TEXT"))


def _pinned_at(connection: Connection) -> None:
    """When an admin had fixed a model version was not known."""
    column = schema.projects.c.pinned_at
    if column.name not in {known["name"] for known in inspect(connection).get_columns("projects")}:
        kind = column.type.compile(connection.dialect)
        connection.execute(text(f"ALTER TABLE projects ADD COLUMN {column.name} {kind}"))


MIGRATIONS: tuple[Migration, ...] = (
    Migration(1, "first tables", schema.metadata.create_all),
    Migration(2, "test set, facts about images", schema.metadata.create_all),
    Migration(3, "questions of model versions", _questions),
    Migration(4, "trainings, deep versions and what they see", schema.metadata.create_all),
    Migration(5, "insights", schema.metadata.create_all),
    Migration(6, "revisions of project settings", _revisions),
    Migration(7, "reasons of the gate", _reasons),
    Migration(8, "moments of pins", _pinned_at),
)


def migrate(database: Database, steps: Sequence[Migration] = MIGRATIONS) -> int:
    """Bring the tables to the newest step, in one transaction.

    Returns:
        Number of the newest step.

    Raises:
        StoreError: The database was written by a newer version of this package.
    """
    newest = steps[-1].number
    with database.write() as connection:
        if database.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        schema.schema_version.create(connection, checkfirst=True)
        reached = connection.scalar(select(func.coalesce(func.max(schema.schema_version.c.number), 0))) or 0
        if reached > newest:
            raise StoreError(
                f"The database is at step {reached}, this version of ls-backend knows {newest}: "
                "a newer version has used it.",
                hint="Upgrade ls-backend, or point DATA_DIR or DATABASE_URL at another database.",
                reached=reached,
                known=newest,
            )
        for step in steps:
            if step.number > reached:
                step.apply(connection)
                connection.execute(
                    insert(schema.schema_version).values(
                        number=step.number, name=step.name, applied_at=datetime.now(UTC)
                    )
                )
    return newest
