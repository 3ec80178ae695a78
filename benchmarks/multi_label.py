"""How doubts about the labels of a task become one: the mean over its yes/no questions, or the largest.

    python benchmarks/multi_label.py

Replays known labels of generated multi-label tasks: 20 tasks by chance, then batches of 10 up to 130, a logistic head
for each label. Prints the micro-averaged F1 on 1,000 other tasks, the mean over the batches, and how far it is from
that of chance with the interval of two standard errors over the seeds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import make_multilabel_classification

from ls_backend.strategies import Plan, Pool, rank, unit_rows

N_POOL, N_TEST = 2000, 1000
FIRST, BATCH, ROUNDS = 20, 10, 12
SEEDS = 6
NEWTON_STEPS = 7
Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]
Data = tuple[NDArray[np.float32], Labels]


def words(seed: int) -> Data:
    """Bags of words under 10 labels, two a task on average: scikit-learn's generator."""
    x, y = make_multilabel_classification(N_POOL + N_TEST, 40, n_classes=10, n_labels=2, length=60, random_state=seed)
    return _standardised(x), y.astype(np.bool_)


def prototypes(seed: int, n_labels: int) -> Data:
    """Sums of prototypes and noise: labels of very different frequency that keep company."""
    rng = np.random.default_rng(seed)
    n = N_POOL + N_TEST
    frequency = 1.0 / np.arange(1, n_labels + 1) ** 0.8
    topics = rng.dirichlet(np.ones(6), size=n)
    tilt = rng.lognormal(0.0, 1.0, (6, n_labels))
    y = rng.random((n, n_labels)) < np.minimum(2.0 * frequency / frequency.sum() * (topics @ tilt), 0.95)
    return _standardised(y @ rng.normal(size=(n_labels, 32)) + 2.0 * rng.normal(size=(n, 32))), y


def _standardised(x: Floats) -> NDArray[np.float32]:
    return unit_rows((x - x.mean(axis=0)) / (x.std(axis=0) + 1e-9))


def head(z: NDArray[np.float32], y: Labels) -> Floats:
    """Fit a ridge logistic regression for every label at once by Newton's method; (d + 1, c) weights."""
    x = _with_one(z)
    ridge = np.eye(x.shape[1])
    ridge[-1, -1] = 0.05
    weights = np.zeros((x.shape[1], y.shape[1]))
    weights[-1] = np.log((y.sum(axis=0) + 0.5) / ((~y).sum(axis=0) + 0.5))
    for _ in range(NEWTON_STEPS):
        p = 1.0 / (1.0 + np.exp(-np.clip(x @ weights, -30, 30)))
        gradient = x.T @ (p - y) + ridge @ weights  # (d + 1, c)
        curvature = np.einsum("ni,nc,nj->cij", x, p * (1.0 - p), x, optimize=True) + ridge
        weights = weights - np.linalg.solve(curvature, gradient.T[:, :, None])[:, :, 0].T
    return weights


def _with_one(z: NDArray[np.float32]) -> Floats:
    return np.concatenate([z * np.sqrt(z.shape[1]), np.ones((len(z), 1))], axis=1).astype(np.float64)


def believed(z: NDArray[np.float32], weights: Floats) -> Floats:
    """Probability (n, c) of each label."""
    p: Floats = 1.0 / (1.0 + np.exp(-np.clip(_with_one(z) @ weights, -30, 30)))
    return p


def pool_of(z: NDArray[np.float32], p: Floats, labelled: NDArray[np.float32], rule: str) -> Pool:
    """Tasks with the doubts that a rule makes of the margins."""
    if rule == "mean":
        return Pool(z, p, labelled, questions=np.arange(p.shape[1]))
    largest = (1.0 - np.abs(2.0 * p - 1.0)).max(axis=1, keepdims=True)
    return Pool(z, labelled_embeddings=labelled, doubts=largest if rule == "largest" else np.ones_like(largest))


def replay(data: Data, plan: Plan, rule: str, seed: int) -> float:
    """Return the mean F1 over the batches when tasks are taken by a plan, with doubts by a rule."""
    z, y = data
    rng = np.random.default_rng(seed)
    taken = rng.permutation(N_POOL)[:FIRST]
    scores = []
    for _ in range(ROUNDS):
        weights = head(z[taken], y[taken])
        found = believed(z[N_POOL:], weights) > 0.5
        scores.append(2.0 * (found & y[N_POOL:]).sum() / (found.sum() + y[N_POOL:].sum()))
        left = np.setdiff1d(np.arange(N_POOL), taken)
        pool = pool_of(z[left], believed(z[left], weights), z[taken], rule)
        taken = np.concatenate([taken, left[rank(pool, plan, BATCH, rng).indices]])
    return float(np.mean(scores))


def main() -> None:
    """Print one line for each kind of tasks, plan and rule."""
    kinds = {
        "words, 10 labels": words,
        "prototypes, 5 labels": lambda seed: prototypes(seed, 5),
        "prototypes, 20 labels": lambda seed: prototypes(seed, 20),
    }
    print(f"{'tasks':<22} {'plan':<20} {'no doubt':>9} {'mean':>18} {'largest':>18}")
    for kind, make in kinds.items():
        tasks = [make(seed) for seed in range(SEEDS)]
        for name in ("margin", "uncertainty_herding"):
            plan = Plan.preset(name)
            scores = {
                rule: np.array([replay(data, plan, rule, seed) for seed, data in enumerate(tasks)])
                for rule in ("none", "mean", "largest")
            }
            gains = [scores[rule] - scores["none"] for rule in ("mean", "largest")]
            shown = [f"{gain.mean():+.3f} +- {2 * gain.std(ddof=1) / np.sqrt(SEEDS):.3f}" for gain in gains]
            print(f"{kind:<22} {name:<20} {scores['none'].mean():>9.3f} {shown[0]:>18} {shown[1]:>18}", flush=True)


if __name__ == "__main__":
    main()
