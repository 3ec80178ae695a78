"""Answers for /predict: probabilities, and regions, of tasks the published window does not hold."""

from __future__ import annotations

from collections.abc import Sequence

from ls_backend.engine import backbones, judge, retrain
from ls_backend.engine.context import Context
from ls_backend.engine.embed_pool import embed_tasks
from ls_backend.engine.sync import sync


def predict_tasks(context: Context, project_id: int, task_ids: Sequence[int]) -> int:
    """Embed and score some tasks and leave the answers in the store, where the server finds them.

    Tasks without a readable image get no answer, and a problem each.

    Returns:
        Tasks answered.
    """
    project = context.project(project_id)
    version = context.store.versions.in_force(project_id)
    if version is None:
        return 0
    if version.backbone != backbones.in_force(context, project):
        return 0  # texts have become images, or the other way round: a new model is on its way
    wanted = set(task_ids)
    if wanted - context.store.tasks.ids(project_id):
        sync(context, project_id)
    images = context.store.tasks.images(project_id, wanted)
    hashes = {row.task_id: row.content_hash for row in images if row.content_hash is not None}
    unread = {row.task_id: row.image or "" for row in images if row.content_hash is None}
    if unread:
        hashes |= embed_tasks(context, project, unread, version.backbone)
    model = retrain.load(context, version)
    loaded = context.load_vectors(version.backbone, list(hashes.values()))
    ready = [task_id for task_id, found in zip(hashes, loaded.found, strict=True) if found]
    if not ready:
        return 0
    raw = loaded.vectors[loaded.found]
    probabilities = model.classifier.probabilities(model.standardiser.apply(raw))
    context.store.predictions.put(
        project_id,
        version.version_id,
        {task_id: row.tolist() for task_id, row in zip(ready, probabilities, strict=True)},
    )
    judge.judge_tasks(context, project, ready)
    return len(ready)
