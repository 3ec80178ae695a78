"""Advice to those who run a project: made by a worker, kept as the insight "advice", read by everybody.

stopping      whether to go on labelling, and what another 50 labels should bring
relabel       labels that are probably wrong
disagreement  tasks whose annotators differ
duplicates    tasks that show nearly the same
drift         whether the tasks imported last look like those before
agreement     the coefficients two of these need
replayed      what the plan has saved, by labelling what is known again; minutes, so only when somebody asks
gather        a project's records and embeddings -> all of it but the last
"""

from ls_backend.engine.advice.gather import KIND, Advice, advise, due, renew
from ls_backend.engine.advice.replayed import SAVINGS, replay_savings

__all__ = ["KIND", "SAVINGS", "Advice", "advise", "due", "renew", "replay_savings"]
