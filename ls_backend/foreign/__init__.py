"""Models that somebody wrote for label-studio-ml, run beside the worker and read in our words.

    predictor = Predictor("my_models.sentiment:Classifier", label_config, folder, timeout_s=60)
    predictor.fit(tasks_with_annotations, "START_TRAINING")
    answers = predictor.predict(tasks)          # an Answer or a Failure for each task, in order

The model lives in a process of its own (`child`, `host`): it may raise, hang, print, or end that process. What its
answers mean for uncertainty, classes and pre-annotations is said by `judgement`, in pure functions.
"""

from ls_backend.foreign.answers import Answer, Failure
from ls_backend.foreign.predictor import Predictor

__all__ = ["Answer", "Failure", "Predictor"]
