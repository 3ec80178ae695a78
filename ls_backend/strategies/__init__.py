"""Which task to label next: pure functions of arrays, NumPy only.

    pool = Pool(embeddings, probabilities, labelled_embeddings, labelled_counts)
    ranking = rank(pool, Plan.preset("auto"), k=20, rng=np.random.default_rng(0))

Embeddings of more than 64 dimensions are reduced inside `rank`. Who ranks the same tasks again and again can do that
once: `fit_reduction(embeddings).apply(...)`, for pool and labelled tasks alike, and pass the result as embeddings.

The tasks of a test set are drawn before anything is learnt, and then kept out of the pool:

    rows = test_set.choose(n, 200, np.random.default_rng(0), strata=weather)

Own methods: decorate a function with `scorer`, `gain`, `picker` or `balancer` in a module named in the entry-point
group `ls_backend.strategies`.
"""

from ls_backend.strategies import (
    balance,
    balls,
    clustering,
    committee,
    diversity,
    fisher,
    representativeness,
    sampling,
    test_set,
    uncertainty,
)
from ls_backend.strategies.balance import cost_matrix
from ls_backend.strategies.neighbours import nearest_distances, nearest_others
from ls_backend.strategies.plan import Plan, presets
from ls_backend.strategies.pool import Pool, unit_rows
from ls_backend.strategies.problem import needs
from ls_backend.strategies.ranking import Ranking, rank
from ls_backend.strategies.reduction import Reduction, fit_reduction
from ls_backend.strategies.registry import Balancer, Gain, Strategy, balancer, gain, picker, scorer, strategies
from ls_backend.strategies.struggles import ErrorRates, error_rates

BUILT_IN = (
    uncertainty,
    committee,
    diversity,
    sampling,
    clustering,
    balls,
    fisher,
    balance,
    representativeness,
)  # importing them registers their methods

__all__ = [
    "BUILT_IN",
    "Balancer",
    "ErrorRates",
    "Gain",
    "Plan",
    "Pool",
    "Ranking",
    "Reduction",
    "Strategy",
    "balancer",
    "cost_matrix",
    "error_rates",
    "fit_reduction",
    "gain",
    "nearest_distances",
    "nearest_others",
    "needs",
    "picker",
    "presets",
    "rank",
    "scorer",
    "strategies",
    "test_set",
    "unit_rows",
]
