"""Projects, their settings, and the counters that decide when an update is due and which one may publish."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import TypedDict, Unpack

from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from ls_backend.errors import SettingsError, StoreError
from ls_backend.store.database import Database, upsert
from ls_backend.store.schema import events, problems, projects

EVENTS_KEPT = 1_000
_PRUNE_EVERY = 100


@dataclass(frozen=True, slots=True)
class Project:
    """A connected Label Studio project.

    Attributes:
        origin: Moment Label Studio's project was created, as its set-up call sends it; tells two Label Studio databases
            apart that use the same id.
        access_token: Token Label Studio sent with its set-up call.
        webhook_url: Where Label Studio sends its events to reach us.
        settings_json: Project settings in force, as JSON text; the newest of their revisions.
        said_params: Extra params that Label Studio sent last, as JSON text with sorted keys; None before the first.
        wanted_generation: Events and other reasons for an update so far.
        done_generation: Wanted generation the last finished update covered.
        published_generation: Fence: only an update of a higher generation may publish.
        sequence: Windows numbered so far.
        round: Retrains numbered so far.
        window_version: Version of the window in force in Label Studio.
        pending_version: Version being flipped to; set before and cleared after the call, so a crash between is seen.
        pinned_version: Model version an admin fixed; None for the latest promoted one.
        pinned_at: When one was fixed or released last; None before the first time.
        synced_until: Everything Label Studio changed before this moment has been read.
        backend_id: Label Studio's id of the ML backend that points here.
    """

    id: int
    origin: str | None
    title: str
    label_config: str | None
    hostname: str | None
    access_token: str | None = field(repr=False)
    settings_json: str | None
    said_params: str | None
    webhook_secret: str | None = field(repr=False)
    webhook_url: str | None
    active: bool
    wanted_generation: int
    done_generation: int
    published_generation: int
    sequence: int
    round: int
    synced_until: datetime | None
    window_version: str | None
    pending_version: str | None
    pinned_version: str | None
    pinned_at: datetime | None
    last_error: str | None
    updated_at: datetime
    reconciled_at: datetime | None
    backend_id: int | None


@dataclass(frozen=True, slots=True)
class Event:
    """One webhook call that was acknowledged."""

    generation: int
    action: str
    task_id: int | None
    annotation_id: int | None
    received_at: datetime


class ProjectChange(TypedDict, total=False):
    """Columns of a project that may be set; counters have methods of their own."""

    title: str
    label_config: str | None
    hostname: str | None
    access_token: str | None
    settings_json: str | None
    said_params: str | None
    webhook_secret: str | None
    webhook_url: str | None
    active: bool
    synced_until: datetime | None
    window_version: str | None
    pending_version: str | None
    last_error: str | None
    reconciled_at: datetime | None
    backend_id: int | None


_COLUMNS = tuple(projects.c[item.name] for item in fields(Project))


class Projects:
    """Records of projects."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ensure(
        self,
        project_id: int,
        *,
        label_config: str | None = None,
        hostname: str | None = None,
        access_token: str | None = None,
        origin: str | None = None,
    ) -> Project:
        """Insert the project or update the given fields; either way it becomes active.

        When `origin` contradicts the stored one, another Label Studio database has taken over the id: all records of
        the old project are wiped. Its counters go on, so that an update still running for it can no longer publish.

        Args:
            project_id: Label Studio's id.
            label_config: The labelling interface; None leaves the stored one, as for the other fields.
            hostname: Label Studio's address.
            access_token: Label Studio's token.
            origin: When Label Studio's project was created, as text.
        """
        given = {"label_config": label_config, "hostname": hostname, "access_token": access_token, "origin": origin}
        values = {name: value for name, value in given.items() if value is not None}
        with self._database.write() as connection:
            statement = upsert(connection, projects).values(id=project_id, updated_at=_now())
            connection.execute(statement.on_conflict_do_nothing(index_elements=["id"]))
            stored = _get(connection, project_id, lock=True)
            assert stored is not None
            if origin is not None and stored.origin is not None and stored.origin != origin:
                _start_over(connection, stored)
            connection.execute(
                update(projects).where(projects.c.id == project_id).values(**values, active=True, updated_at=_now())
            )
            project = _get(connection, project_id)
            assert project is not None
            return project

    def get(self, project_id: int) -> Project | None:
        """Return the project, None when it was never connected."""
        with self._database.read() as connection:
            return _get(connection, project_id)

    def connected(self, project_id: int) -> Project:
        """Return a project.

        Raises:
            SettingsError: It was never connected.
        """
        found = self.get(project_id)
        if found is None:
            known = ", ".join(str(item.id) for item in self.active())
            raise SettingsError(
                f"Project {project_id} is not connected to this backend; expected one of: {known or 'none yet'}.",
                hint=f"Run `ls-backend connect --project {project_id}`.",
            )
        return found

    def active(self) -> list[Project]:
        """Return the projects that are looked after, by id."""
        with self._database.read() as connection:
            rows = connection.execute(select(*_COLUMNS).where(projects.c.active).order_by(projects.c.id)).mappings()
            return [_project(row) for row in rows]

    def set(self, project_id: int, **columns: Unpack[ProjectChange]) -> None:
        """Set columns of a project.

        Raises:
            StoreError: The project is not known, or a column cannot be set this way.
        """
        unknown = sorted(set(columns) - set(ProjectChange.__annotations__))
        if unknown:
            raise StoreError(f"{', '.join(unknown)} cannot be set on a project.", project_id=project_id)
        with self._database.write() as connection:
            found = connection.execute(
                update(projects).where(projects.c.id == project_id).values(**columns, updated_at=_now())
            )
            if found.rowcount == 0:
                raise _unknown(project_id)

    def note_event(self, project_id: int, action: str, task_id: int | None, annotation_id: int | None) -> int:
        """Record an event and want one more update, in one transaction.

        Returns:
            The new wanted generation; 0 for a project that was never connected, whose events are ignored.
        """
        with self._database.write() as connection:
            generation = _advance(connection, project_id, "wanted_generation")
            if generation:
                connection.execute(
                    insert(events).values(
                        project_id=project_id,
                        generation=generation,
                        action=action,
                        task_id=task_id,
                        annotation_id=annotation_id,
                        received_at=_now(),
                    )
                )
            if generation and generation % _PRUNE_EVERY == 0:
                old = events.c.generation <= generation - EVENTS_KEPT
                connection.execute(delete(events).where(events.c.project_id == project_id, old))
            return generation

    def events(self, project_id: int, limit: int) -> list[Event]:
        """Return the latest events, newest first."""
        columns = (events.c[item.name] for item in fields(Event))
        statement = select(*columns).where(events.c.project_id == project_id)
        with self._database.read() as connection:
            rows = connection.execute(statement.order_by(events.c.generation.desc()).limit(limit)).mappings()
            return [Event(**row) for row in rows]

    def pin(self, project_id: int, version_id: str | None) -> None:
        """Fix the model version that serves, whatever retrains bring; None lets the latest promoted one serve."""
        with self._database.write() as connection:
            now = datetime.now(UTC)
            values = {"pinned_version": version_id, "pinned_at": now, "updated_at": now}
            connection.execute(update(projects).where(projects.c.id == project_id).values(values))

    def bump(self, project_id: int) -> int:
        """Want one more update.

        Returns:
            The new wanted generation; 0 for a project that was never connected.
        """
        with self._database.write() as connection:
            return _advance(connection, project_id, "wanted_generation")

    def finish(self, project_id: int, generation: int) -> None:
        """Record that an update covered everything up to `generation`; a late finisher takes nothing back."""
        done = projects.c.done_generation
        with self._database.write() as connection:
            connection.execute(
                update(projects)
                .where(projects.c.id == project_id, done < generation)
                .values(done_generation=generation, updated_at=_now())
            )

    def behind(self) -> list[int]:
        """Return the ids of active projects that want an update, by id."""
        late = projects.c.wanted_generation > projects.c.done_generation
        with self._database.read() as connection:
            return list(
                connection.scalars(select(projects.c.id).where(projects.c.active, late).order_by(projects.c.id))
            )

    def fence(self, project_id: int, generation: int) -> bool:
        """Ask to publish for `generation`.

        Returns:
            True exactly once per generation, and only while no higher one has asked. A second run of the same
            update, left over from a crash or a network split, is told no.
        """
        with self._database.write() as connection:
            passed = connection.execute(
                update(projects)
                .where(projects.c.id == project_id, projects.c.published_generation < generation)
                .values(published_generation=generation)
            )
            return passed.rowcount == 1

    def next_sequence(self, project_id: int) -> int:
        """Number a new window, from 1; no number is given twice.

        Raises:
            StoreError: The project is not known.
        """
        return self._number(project_id, "sequence")

    def raise_sequence(self, project_id: int, to: int) -> None:
        """Give no window a number up to `to`: those were given in a life this database does not remember."""
        with self._database.write() as connection:
            connection.execute(
                update(projects).where(projects.c.id == project_id, projects.c.sequence < to).values(sequence=to)
            )

    def next_round(self, project_id: int) -> int:
        """Number a new retrain, from 1; no number is given twice.

        Raises:
            StoreError: The project is not known.
        """
        return self._number(project_id, "round")

    def forget(self, project_id: int) -> None:
        """Delete everything about a project. A project that is not known is forgotten already."""
        with self._database.write() as connection:
            connection.execute(delete(problems).where(problems.c.project_id == project_id))
            connection.execute(delete(projects).where(projects.c.id == project_id))

    def _number(self, project_id: int, counter: str) -> int:
        with self._database.write() as connection:
            number = _advance(connection, project_id, counter)
        if number == 0:
            raise _unknown(project_id)
        return number


def _advance(connection: Connection, project_id: int, counter: str) -> int:
    column = projects.c[counter]
    statement = update(projects).where(projects.c.id == project_id).values({counter: column + 1}).returning(column)
    return connection.scalar(statement) or 0


def _start_over(connection: Connection, old: Project) -> None:
    """Wipe a project whose id now means another one, and keep its counters moving."""
    connection.execute(delete(problems).where(problems.c.project_id == old.id))
    connection.execute(delete(projects).where(projects.c.id == old.id))
    connection.execute(
        insert(projects).values(
            id=old.id,
            wanted_generation=old.wanted_generation + 1,
            done_generation=old.wanted_generation,
            published_generation=max(old.published_generation, old.wanted_generation),
            sequence=old.sequence,
            round=old.round,
            updated_at=_now(),
        )
    )


def _get(connection: Connection, project_id: int, *, lock: bool = False) -> Project | None:
    statement = select(*_COLUMNS).where(projects.c.id == project_id)
    row = connection.execute(statement.with_for_update() if lock else statement).mappings().one_or_none()
    return None if row is None else _project(row)


def _project(row: RowMapping) -> Project:
    return Project(**row)


def _now() -> datetime:
    return datetime.now(UTC)


def _unknown(project_id: int) -> StoreError:
    return StoreError(
        f"Project {project_id} is not known here.",
        hint=f"Connect it with `ls-backend connect {project_id}`.",
        project_id=project_id,
    )
