"""Class probabilities a model version gave, so that asking again costs a look-up."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from sqlalchemy import delete, select

from ls_backend.store.database import Database, chunks, replace_rows
from ls_backend.store.schema import answers


class Predictions:
    """Records of what model versions answered."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, project_id: int, model_version_id: str, probabilities: Mapping[int, Sequence[float]]) -> None:
        """Store answers; later ones replace earlier ones.

        Args:
            project_id: Project they belong to.
            model_version_id: Version that answered.
            probabilities: Task id -> probability of each class, in the order of the version.

        Raises:
            StoreError: The project is not known.
        """
        rows = [
            {
                "project_id": project_id,
                "model_version_id": model_version_id,
                "task_id": task_id,
                "probabilities": [float(value) for value in values],
            }
            for task_id, values in probabilities.items()
        ]
        with self._database.write() as connection:
            replace_rows(connection, answers, rows)

    def get(self, project_id: int, model_version_id: str, task_ids: Iterable[int]) -> dict[int, tuple[float, ...]]:
        """Return the answers there are; tasks without one are left out."""
        found: dict[int, tuple[float, ...]] = {}
        with self._database.read() as connection:
            for batch in chunks(task_ids):
                statement = select(answers.c.task_id, answers.c.probabilities).where(
                    answers.c.project_id == project_id,
                    answers.c.model_version_id == model_version_id,
                    answers.c.task_id.in_(batch),
                )
                found.update((row.task_id, tuple(row.probabilities)) for row in connection.execute(statement))
        return found

    def keep_only(self, project_id: int, model_version_ids: Collection[str]) -> int:
        """Delete the answers of all other model versions; answer how many went."""
        with self._database.write() as connection:
            gone = connection.execute(
                delete(answers).where(
                    answers.c.project_id == project_id, answers.c.model_version_id.not_in(list(model_version_ids))
                )
            )
            return gone.rowcount
