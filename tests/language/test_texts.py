"""Embeddings of texts: what a ranking relies on."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from ls_backend.language import texts

MARKETS = ["shares fell as stock markets closed", "stock markets fell, shares lost value", "shares: markets falling"]
CATS = ["one cat sat purring by our mat", "purring cat sits upon mat", "cats purr upon mats"]


@pytest.fixture(scope="module")
def backbone():
    return texts.load()


def test_rows_are_of_unit_length_whatever_the_text(backbone):
    odd = ["", "   ", "!?", "a", "x" * 100_000, "日本語のテキスト", "emoji 🐈", "\x00\n\t", "word " * 5000]
    rows = backbone.embed(odd)
    assert (rows.shape, rows.dtype) == ((len(odd), backbone.dim), np.float32)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)
    np.testing.assert_array_equal(rows[0], rows[1])


def test_no_texts_are_no_rows(backbone):
    assert backbone.embed([]).shape == (0, backbone.dim)


def test_an_embedding_depends_on_its_text_alone(backbone):
    together = backbone.embed([*MARKETS, *CATS])
    alone = np.concatenate([backbone.embed([text]) for text in [*MARKETS, *CATS]])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    many = backbone.embed([f"text {number}" for number in range(1100)])  # more than a chunk
    np.testing.assert_allclose(many[[0, 1099]], backbone.embed(["text 0", "text 1099"]), atol=1e-6)


def test_another_process_makes_the_same_embedding_under_the_same_identity(backbone):
    program = (
        "from ls_backend.language import texts\nbackbone = texts.load()\n"
        "print(backbone.identity, *backbone.embed(['a cat'])[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    identity, *numbers = done.stdout.split()
    assert identity == backbone.identity
    np.testing.assert_allclose([float(number) for number in numbers], backbone.embed(["a cat"])[0], atol=1e-6)


def test_another_length_is_another_identity():
    small = texts.load(dim=64)
    assert small.embed(["a cat"]).shape == (1, 64)
    assert small.identity != texts.load().identity


def test_texts_of_one_topic_are_closer_than_texts_of_two(backbone):
    rows = backbone.embed([*MARKETS, *CATS])
    cosines = rows @ rows.T
    for own, other in ((slice(0, 3), slice(3, 6)), (slice(3, 6), slice(0, 3))):
        assert (cosines[own, own].min(axis=1) > cosines[own, other].max(axis=1)).all()


def test_a_typing_error_or_another_case_moves_a_text_little(backbone):
    right, wrong, loud, other = backbone.embed(
        ["delivery was late again", "delivrey was late again", "DELIVERY WAS LATE AGAIN", "excellent film, great cast"]
    )
    assert right @ wrong > 0.6
    assert right @ other < 0.2
    assert right @ loud == pytest.approx(1.0, abs=1e-5)


def test_projecting_keeps_the_angles_of_the_hashed_counts(backbone):
    from sklearn.feature_extraction.text import CountVectorizer

    words = [f"w{number:03d}" for number in range(60)]
    rng = np.random.default_rng(0)
    documents = [" ".join(rng.choice(words, 25)) for _ in range(40)]
    kinds = [CountVectorizer(ngram_range=(1, 2)), CountVectorizer(analyzer="char_wb", ngram_range=(3, 5))]
    exact = [np.log1p(kind.fit_transform(documents).toarray().astype(float)) for kind in kinds]
    exact = np.hstack([block / np.linalg.norm(block, axis=1, keepdims=True) for block in exact]) / np.sqrt(2)
    found = backbone.embed(documents)
    error = (found @ found.T - exact @ exact.T)[~np.eye(40, dtype=bool)]
    assert np.sqrt((error**2).mean()) < 2 / np.sqrt(backbone.dim)
