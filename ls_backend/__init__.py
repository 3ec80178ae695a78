"""Active learning for Label Studio: every annotator always sees the next most valuable task."""

__version__ = "0.1.0"
