"""What every use case needs: settings, records, embeddings, Label Studio, backbones. Made once a process."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ls_backend.errors import BackbonePending, SettingsError, StoreError
from ls_backend.foreign import Predictor
from ls_backend.labelstudio.client import Client
from ls_backend.labelstudio.images import Downloader
from ls_backend.settings import DEFAULT_BACKBONE, TEXT_BACKBONE, ProjectSettings, Settings
from ls_backend.store import Loaded, Project, Store, Vectors
from ls_backend.strategies import nearest_distances

if TYPE_CHECKING:
    from concurrent.futures import Future
    from pathlib import Path

    from ls_backend.language.texts import TextBackbone
    from ls_backend.vision.backbones import Backbone
    from ls_backend.vision.features import Standardiser

    Embedder = Backbone | TextBackbone

CACHED_PROJECTS = 2  # a pool of 100,000 tasks is 512 MB of features
RETRY_S = 60.0
"""Seconds before a backbone that could not be had is tried again."""


@dataclass(frozen=True)
class Features:
    """Standardised embeddings of a project's tasks, cached in the warm worker.

    Attributes:
        values: (n, d) float32 of the tasks found, rows of unit length.
        found: (m,) bool, which of the tasks asked for have an embedding; n of them.
        standardiser: What made them from the raw embeddings; None when nothing was found.
    """

    values: NDArray[np.float32]
    found: NDArray[np.bool_]
    standardiser: Standardiser | None

    @cached_property
    def nearest(self) -> NDArray[np.float64]:
        """Cosine distance (n,) from each task to the one most like it; measured when a rule asks for it."""
        return nearest_distances(self.values)


class Context:
    """Composition root of the engine; holds no state that cannot be rebuilt."""

    def __init__(self, settings: Settings) -> None:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        self.settings = settings
        self.store = Store(settings.sql_url)
        self.vectors = Vectors(str(settings.data_dir / "vectors"))
        self._clients: dict[tuple[str, str], Client] = {}
        self._predictors: dict[int, tuple[tuple[str, str], Predictor]] = {}
        self._backbones: dict[str, Backbone] = {}
        self._fetches: dict[str, Future[Path]] = {}
        self._refused: dict[str, tuple[float, SettingsError]] = {}
        self._features: OrderedDict[tuple[int, str], tuple[str, Features]] = OrderedDict()

    def close(self) -> None:
        """Let go of connections and caches."""
        self._features.clear()
        self._clients.clear()
        for project_id in list(self._predictors):
            self.drop_predictor(project_id)
        self.store.dispose()

    def project(self, project_id: int) -> Project:
        """Return the record of a connected project.

        Raises:
            SettingsError: The project was never connected.
        """
        return self.store.projects.connected(project_id)

    def project_settings(self, project: Project) -> ProjectSettings:
        """Return the last good settings of a project."""
        return ProjectSettings.model_validate_json(project.settings_json or "{}")

    def client(self, project: Project | None = None) -> Client:
        """Return the Label Studio client for a project; what the operator set wins over what /setup sent.

        Raises:
            SettingsError: No address or no token is known.
        """
        url, token = self._address(project)
        if (url, token) not in self._clients:
            self._clients[url, token] = Client(url, token)
        return self._clients[url, token]

    def _address(self, project: Project | None) -> tuple[str, str]:
        """Return Label Studio's address and a token for it."""
        url = self.settings.label_studio_url or (project.hostname if project else None)
        key = self.settings.label_studio_api_key
        token = key.get_secret_value() if key else (project.access_token if project else None)
        if not url:
            raise SettingsError(
                "LABEL_STUDIO_URL is not set and Label Studio has not sent an address yet.",
                hint="Set LABEL_STUDIO_URL to the address under which this machine reaches Label Studio.",
            )
        if not token:
            raise SettingsError(
                "LABEL_STUDIO_API_KEY is not set and Label Studio has not sent a token.",
                hint="Create a token in Label Studio under Account & Settings and set LABEL_STUDIO_API_KEY.",
            )
        return url, token

    def predictor(self, project: Project, path: str) -> Predictor:
        """Return somebody else's model for a project; its process stays warm as long as this one does.

        Args:
            project: Who wants it; another label config makes another model.
            path: "package.module:ClassName".
        """
        label_config = project.label_config or ""
        known = self._predictors.get(project.id)
        if known is None or known[0] != (path, label_config):
            self.drop_predictor(project.id)
            url, token = self._address(project)
            folder = self.settings.models_path / str(project.id) / f"foreign-{path.replace(':', '-')}"
            made = Predictor(path, label_config, folder, 60.0, project_id=project.id, hostname=url, access_token=token)
            known = self._predictors[project.id] = ((path, label_config), made)
        return known[1]

    def drop_predictor(self, project_id: int) -> None:
        """End the process of a model that nobody asks any more."""
        _, predictor = self._predictors.pop(project_id, (None, None))
        if predictor is not None:
            predictor.close()

    def downloader(self, project: Project) -> Downloader:
        """Return the image downloader for a project."""
        return Downloader(
            self.client(project),
            self.settings.data_dir / "images",
            timeout_s=self.settings.image_timeout_s,
            max_bytes=self.settings.image_max_bytes,
            cache_bytes=self.settings.image_cache_bytes,
            local_files_root=self.settings.local_files_root,
        )

    def backbone(self, name: str) -> Backbone:
        """Return a backbone, loaded once a process. Weights that are not here yet are fetched in the background.

        Raises:
            SettingsError: It cannot be had; tried again after a while.
            BackbonePending: Its weights are on their way.
        """
        if name not in self._backbones:
            since, refusal = self._refused.get(name, (0.0, None))
            if refusal is not None and time.monotonic() < since + RETRY_S:
                raise SettingsError(str(refusal), hint=refusal.hint) from refusal
            try:
                self._backbones[name] = self._load(name)
            except SettingsError as error:
                self._refused[name] = (time.monotonic(), error)
                raise
        return self._backbones[name]

    @cached_property
    def text_backbone(self) -> TextBackbone:
        """What makes the embeddings of texts, loaded once a process."""
        from ls_backend.language import texts  # noqa: PLC0415 - a second, and only for those who label texts

        return texts.load()

    def embedder(self, name: str) -> Embedder:
        """Return what makes the embeddings of that name, of images or of texts; raises what `backbone` raises."""
        return self.text_backbone if name == TEXT_BACKBONE else self.backbone(name)

    def _load(self, name: str) -> Backbone:
        from ls_backend.vision import backbones, weights  # noqa: PLC0415 - torch takes seconds; only workers pay

        folder = self.settings.weights_dir
        source = backbones.missing(name, folder)
        if source is not None and self.settings.download_weights:
            # Not in this job: others wait behind it, and some weights are gigabytes.
            if name not in self._fetches:
                self._fetches[name] = weights.fetch_in_background(name, source, folder)
            fetch = self._fetches[name]
            if not fetch.done():
                raise BackbonePending(f"The weights of {name} are being downloaded from {source.url}.", backbone=name)
            del self._fetches[name]
            fetch.result()
        return backbones.load(name, weights_dir=folder, device=self.settings.device)

    def warm_up(self) -> None:
        """Load what the first job would otherwise wait for: torch, the default backbone, the vector store."""
        from ls_backend.vision import classifier, heads  # noqa: F401, PLC0415 - see backbone()

        backbone = self.backbone(DEFAULT_BACKBONE)
        self.vectors.known(backbone.identity, backbone.dim)
        heads.train(
            np.eye(4, backbone.dim, dtype=np.float32), np.array([0, 1, 0, 1]), np.zeros(4, dtype=bool), 2, seed=0
        )

    def raw_embeddings(self, backbone: str, hashes: Sequence[str]) -> NDArray[np.float32]:
        """Return (n, d) float32 raw embeddings in the order of `hashes`.

        Raises:
            StoreError: One has no embedding.
        """
        loaded = self.load_vectors(backbone, hashes)
        if loaded.missing:
            raise StoreError(
                f"{len(loaded.missing)} of {len(hashes)} embeddings of {backbone} are missing, the first is "
                f"{loaded.missing[0][:12]}.",
                hint="They are made again by the next reconcile.",
            )
        return loaded.vectors

    def load_vectors(self, backbone: str, hashes: Sequence[str]) -> Loaded:
        """Return the raw embeddings there are; a changed checkpoint under the same name has none yet."""
        made_by = self.embedder(backbone)
        return self.vectors.load(made_by.identity, made_by.dim, hashes)

    def compact_vectors(self, backbone: str) -> None:
        """Join the files that many small appends have left; for now and then, never twice at once."""
        made_by = self.embedder(backbone)
        self.vectors.compact(made_by.identity, made_by.dim)

    def features(self, project_id: int, backbone: str, hashes: Sequence[str]) -> Features:
        """Return standardised features of tasks whose image was read, from the cache while nothing changed.

        Args:
            project_id: Owner of the cache entry.
            backbone: Network that makes the embeddings.
            hashes: Content hash of each task.
        """
        from ls_backend.vision.features import Standardiser  # noqa: PLC0415 - see backbone()

        digest = hashlib.sha256("\n".join(hashes).encode()).hexdigest()
        key = (project_id, backbone)
        cached = self._features.get(key)
        if cached and cached[0] == digest:
            self._features.move_to_end(key)
            return cached[1]
        loaded = self.load_vectors(backbone, hashes)
        raw = loaded.vectors if loaded.found.all() else loaded.vectors[loaded.found]
        standardiser = Standardiser.fit(raw) if len(raw) else None
        features = Features(
            values=raw if standardiser is None else standardiser.apply(raw),
            found=loaded.found,
            standardiser=standardiser,
        )
        if not loaded.missing:
            self._features[key] = (digest, features)
        while len(self._features) > CACHED_PROJECTS:
            self._features.popitem(last=False)
        return features
