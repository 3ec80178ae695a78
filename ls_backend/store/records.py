"""The records of a deployment behind one door."""

from __future__ import annotations

from ls_backend.errors import StoreError
from ls_backend.store.database import Database
from ls_backend.store.deep import DeepVersions, Inferences
from ls_backend.store.images import Images
from ls_backend.store.insights import Insights
from ls_backend.store.migrations import migrate
from ls_backend.store.predictions import Predictions
from ls_backend.store.problems import Problems
from ls_backend.store.projects import Projects
from ls_backend.store.revisions import Revisions
from ls_backend.store.runs import Runs
from ls_backend.store.tallies import Tallies
from ls_backend.store.tasks import Tasks
from ls_backend.store.trainings import Trainings
from ls_backend.store.versions import Versions
from ls_backend.store.windows import Windows


class Store:
    """Every record, in SQLite or PostgreSQL. Opening brings the tables up to date. Safe to share between threads.

    Attributes:
        projects: Projects, their counters and events.
        revisions: Project settings as they were saved, one after the other.
        tasks: Tasks and annotations as last read.
        images: What was measured on images.
        versions: Model versions.
        windows: Published windows and their reasons.
        predictions: Answers of model versions.
        problems: What is wrong now.
        runs: What the workers did.
        trainings: Deeper trainings, wanted, under way and over.
        deep_versions: Models of the deep tier.
        inferences: What those see in the pool.
        insights: What workers found out for people to look at.
        tallies: Counts over tasks and annotations.
    """

    def __init__(self, url: str) -> None:
        """Open the database.

        Args:
            url: SQLAlchemy URL of an SQLite file or a PostgreSQL database.

        Raises:
            StoreError: The URL is of no use, the database cannot be opened, or a newer version has used it.
        """
        self._database = Database(url)
        try:
            migrate(self._database)
        except StoreError:
            self._database.dispose()
            raise
        self.projects = Projects(self._database)
        self.revisions = Revisions(self._database)
        self.tasks = Tasks(self._database)
        self.images = Images(self._database)
        self.versions = Versions(self._database)
        self.windows = Windows(self._database)
        self.predictions = Predictions(self._database)
        self.problems = Problems(self._database)
        self.runs = Runs(self._database)
        self.trainings = Trainings(self._database)
        self.deep_versions = DeepVersions(self._database)
        self.inferences = Inferences(self._database)
        self.insights = Insights(self._database)
        self.tallies = Tallies(self._database)

    def ping(self) -> None:
        """Answer when the database can be read.

        Raises:
            StoreError: It cannot.
        """
        with self._database.read() as connection:
            connection.exec_driver_sql("SELECT 1")

    def dispose(self) -> None:
        """Close the connections; the store opens new ones when it is used again."""
        self._database.dispose()
