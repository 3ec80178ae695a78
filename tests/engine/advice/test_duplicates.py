import numpy as np
import pytest

from ls_backend.engine.advice.duplicates import MOST, MOST_IDS, NEAR, find_duplicates
from ls_backend.strategies import unit_rows


def spread(n, d=64, seed=0):
    """Embeddings that are far from each other."""
    return unit_rows(np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32))


def near(row, rng, distance=NEAR / 4):
    """Another embedding at a cosine distance of the one given."""
    aside = rng.standard_normal(len(row))
    aside -= (aside @ row) * row
    cosine = 1.0 - distance
    return (cosine * row + np.sqrt(1 - cosine**2) * aside / np.linalg.norm(aside)).astype(np.float32)


def look(features, labels=None, hashes=None):
    n = len(features)
    return find_duplicates(np.arange(n) + 100, hashes or [f"{i:x}" for i in range(n)], labels or [None] * n, features)


@pytest.mark.parametrize("n", [60, 3000])
def test_planted_near_duplicates_are_found_and_nothing_else(n):
    rng = np.random.default_rng(1)
    features = spread(n)
    pairs = rng.permutation(n)[:20].reshape(10, 2)
    for one, other in pairs:
        features[other] = near(features[one], rng)
    found = look(features)
    assert {one.task_ids for one in found.groups} == {tuple(sorted((pair + 100).tolist())) for pair in pairs}
    assert (found.n_checked, found.n_groups, found.n_spare) == (n, 10, 10)
    assert all(one.distance == pytest.approx(NEAR / 4, rel=1e-3) and not one.identical for one in found.groups)


def test_the_same_content_is_identical_however_its_embedding_came_out():
    found = look(spread(5), hashes=["a", "b", "a", "c", "a"])
    (group,) = found.groups
    assert (group.task_ids, group.identical, group.distance) == ((100, 102, 104), True, 0.0)
    assert found.n_spare == 2
    assert group.reason == "3 tasks have the same content; none of them labelled."


def test_a_label_says_what_its_copies_are():
    found = look(spread(4), ["cat", None, None, "dog"], ["a", "a", "b", "c"])
    assert found.groups[0].reason == "2 tasks have the same content; 1 of them labelled, as cat."
    assert (found.groups[0].n_unlabelled, found.n_spare) == (1, 1)


def test_contradicting_labels_come_first():
    hashes = [*"aaaaa", *"bb", *"cc"]
    found = look(spread(9), [*[None] * 5, "cat", "dog", "cat", "cat"], hashes)
    assert found.groups[0].labels == ("cat", "dog")
    assert "labelled differently: cat, dog" in found.groups[0].reason
    assert [one.n_tasks for one in found.groups] == [2, 5, 2]
    assert "In 1 of them the labels contradict each other." in found.sentence
    assert found.n_spare == 4


def test_a_chain_is_one_group():
    rng = np.random.default_rng(3)
    features = spread(30)
    features[7] = near(features[3], rng, NEAR / 2)
    features[20] = near(features[7], rng, NEAR / 3)
    (group,) = look(features).groups
    assert group.task_ids == (103, 107, 120)


def test_nothing_is_found_where_nothing_is():
    assert look(spread(200)).sentence == "No near-duplicates among 200 tasks."
    assert look(np.zeros((0, 4), np.float32)).n_groups == 0
    assert look(np.zeros((3, 4), np.float32)).n_groups == 0  # nothing is known of them


def test_lists_are_cut_but_counted():
    many = look(spread(2 * MOST + 20), hashes=[str(i // 2) for i in range(2 * MOST + 20)])
    assert (len(many.groups), many.n_groups) == (MOST, MOST + 10)
    large = look(spread(MOST_IDS + 5), hashes=["same"] * (MOST_IDS + 5)).groups[0]
    assert (len(large.task_ids), large.n_tasks) == (MOST_IDS, MOST_IDS + 5)
