"""Embeddings of texts: hashed words and letters, thrown onto a few hundred fixed directions.

Nothing is learned and nothing is downloaded, so an embedding depends on its text alone. Texts that share words, or
parts of words, are close. Meaning is not seen: synonyms are strangers. That is enough to tell near-duplicates and
topics apart; for more, let a model of one's own judge (`foreign`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import HashingVectorizer

from ls_backend.settings import TEXT_BACKBONE

_BINS = 2**14  # for words and for letters each
_SIGNS_SEED = 20_260_101
_CHUNK = 1024  # texts at once: bounds the memory of a call


@dataclass(frozen=True, eq=False)
class TextBackbone:
    """What turns texts into embeddings; the counterpart of `vision.backbones.Backbone`.

    Attributes:
        name: As records of model versions have it.
        identity: Equal identities make equal embeddings.
        dim: Length of an embedding.
    """

    name: str
    identity: str
    dim: int
    _vectorizers: tuple[HashingVectorizer, ...] = field(repr=False)
    _directions: NDArray[np.float32] = field(repr=False)  # (bins of all vectorizers, dim), entries +-1

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts, each by itself.  O(characters + distinct n-grams x dim).

        Args:
            texts: n texts of any length and language.

        Returns:
            (n, dim) float32, rows of unit length; texts of nothing but white space share one row.
        """
        chunks = [self._embed(texts[start : start + _CHUNK]) for start in range(0, len(texts), _CHUNK)]
        return np.concatenate(chunks) if chunks else np.zeros((0, self.dim), np.float32)

    def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = np.zeros((len(texts), self.dim), np.float32)
        start = 0
        for vectorizer in self._vectorizers:
            counts: Any = vectorizer.transform(texts)  # (n, bins) sparse
            counts.data = np.sign(counts.data) * np.log1p(np.abs(counts.data))  # the tenth "the" says little
            rows += _unit(counts @ self._directions[start : start + _BINS])
            start += _BINS
        rows[~rows.any(axis=1)] = self._directions[0]
        return _unit(rows)


def load(dim: int = 512) -> TextBackbone:
    """Return the text backbone that needs no download.

    Words and pairs of words count as much as the three to five letters inside words, which bridge endings, typing
    errors and languages that write without spaces.

    Args:
        dim: Length of an embedding; distances are kept to about 1 / sqrt(dim).

    Returns:
        A `TextBackbone` that maps n texts to (n, dim) float32.

    Source: Weinberger et al. 2009, arXiv:0902.2206 (hashing); Achlioptas 2003, JCSS 66 (projection on random signs).
    """
    common = {"n_features": _BINS, "norm": None, "alternate_sign": True, "lowercase": True, "dtype": np.float32}
    words = HashingVectorizer(ngram_range=(1, 2), **common)
    letters = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), **common)
    bits = np.random.Generator(np.random.PCG64(_SIGNS_SEED)).bytes(2 * _BINS * dim // 8)
    signs = np.unpackbits(np.frombuffer(bits, np.uint8)).reshape(2 * _BINS, dim)
    return TextBackbone(
        name=TEXT_BACKBONE,
        identity=f"{TEXT_BACKBONE}-{_BINS}-{dim}-1",
        dim=dim,
        _vectorizers=(words, letters),
        _directions=signs.astype(np.float32) * 2.0 - 1.0,
    )


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows to unit length; a row of zeros stays."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = rows / np.maximum(norms, np.finfo(np.float32).tiny)
    return scaled
