"""Records in SQL and embeddings in LanceDB. Label Studio stays the source of truth for tasks and annotations."""

from ls_backend.store.deep import DeepVersion, DeepVersions, Inference, Inferences, InferenceTable
from ls_backend.store.images import Images
from ls_backend.store.insights import Insight, Insights
from ls_backend.store.predictions import Predictions
from ls_backend.store.problems import Problem, Problems
from ls_backend.store.projects import Event, Project, Projects
from ls_backend.store.records import Store
from ls_backend.store.revisions import Revision, Revisions, Source
from ls_backend.store.runs import Run, Runs
from ls_backend.store.tallies import Tallies, Throughput
from ls_backend.store.tasks import Counts, LabelledTask, TaskRow, Tasks, TaskTable
from ls_backend.store.trainings import Training, Trainings
from ls_backend.store.vectors import Loaded, Vectors
from ls_backend.store.versions import Versions
from ls_backend.store.windows import KeptRow, WindowRow, Windows

__all__ = [
    "Counts",
    "DeepVersion",
    "DeepVersions",
    "Event",
    "Images",
    "Inference",
    "InferenceTable",
    "Inferences",
    "Insight",
    "Insights",
    "KeptRow",
    "LabelledTask",
    "Loaded",
    "Predictions",
    "Problem",
    "Problems",
    "Project",
    "Projects",
    "Revision",
    "Revisions",
    "Run",
    "Runs",
    "Source",
    "Store",
    "Tallies",
    "TaskRow",
    "TaskTable",
    "Tasks",
    "Throughput",
    "Training",
    "Trainings",
    "Vectors",
    "Versions",
    "WindowRow",
    "Windows",
]
