"""Thumbnails are made while images are embedded, and cost no embedding whatever happens to them."""

from __future__ import annotations

import base64
import hashlib
import io
from datetime import UTC, datetime
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from ls_backend.domain import Task
from ls_backend.engine import thumbnails
from ls_backend.engine.context import Context
from ls_backend.engine.embed_pool import embed_pool
from ls_backend.settings import DEFAULT_BACKBONE, Settings

CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="label" toName="image">'
    '<Choice value="cat"/><Choice value="dog"/></Choices></View>'
)
LEFT_HALF_RED = np.zeros((40, 80, 3), np.uint8)
LEFT_HALF_RED[:, :40, 0] = 250


def written(pixels, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def turned():
    """A photo as a phone held upright stores it: lying on its side, and EXIF says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return written(LEFT_HALF_RED, "JPEG", exif=exif, quality=95)


def pixels_of(path):
    with Image.open(path) as image:
        return np.array(image).astype(int)


def sha(data):
    return hashlib.sha256(data).hexdigest()


class Reader:
    """A project whose images stand in the task data themselves, so that no Label Studio is asked."""

    _backbones: ClassVar = {}  # loaded once

    def __init__(self, folder, *images):
        self.context = Context(
            Settings(data_dir=folder, device="cpu", label_studio_url="http://127.0.0.1:9", label_studio_api_key="token")
        )
        self.context._backbones = self._backbones
        self.context.store.projects.ensure(1)
        self.context.store.projects.set(1, label_config=CONFIG)
        now = datetime.now(UTC)
        inline = ["data:image/png;base64," + base64.b64encode(data).decode() for data in images]
        given = [Task(i, {"image": data}, now, False, 0, 0, None) for i, data in enumerate(inline, 1)]
        self.context.store.tasks.upsert(1, given, image_field="image")
        self.done = embed_pool(self.context, 1)

    @property
    def files(self):
        return sorted(path for path in self.context.settings.thumbnails_path.rglob("*") if path.is_file())

    def path(self, data):
        return thumbnails.path_of(self.context.settings.thumbnails_path, sha(data))

    def embedded(self):
        backbone = self.context.backbone(DEFAULT_BACKBONE)
        return self.context.vectors.known(backbone.identity, backbone.dim)


@pytest.fixture
def reader(tmp_path):
    made = []

    def make(*images):
        made.append(Reader(tmp_path, *images))
        return made[-1]

    yield make
    for one in made:
        one.context.close()


def test_each_image_that_is_embedded_has_a_thumbnail_under_its_content(reader):
    plain, dot = written(LEFT_HALF_RED), written(LEFT_HALF_RED[:1, :1])
    read = reader(plain, dot, plain)
    assert read.done.read == 3
    assert read.files == sorted([read.path(plain), read.path(dot)])
    assert read.path(plain).relative_to(read.context.settings.data_dir).parts[:2] == ("thumbnails", sha(plain)[:2])
    assert pixels_of(read.path(dot)).shape == (1, 1, 3)


def test_a_photo_that_lies_on_its_side_stands_upright(reader):
    data = turned()
    read = reader(data)
    pixels = pixels_of(read.path(data))
    assert pixels.shape == (80, 40, 3)
    assert pixels[:30, :, 0].min() > 200, "what was left is above: 6 is a quarter turn clockwise"
    assert pixels[50:, :, 0].max() < 60


def test_an_image_of_30_megapixels_has_a_small_one(reader):
    data = written(np.tile(LEFT_HALF_RED, (125, 75, 1)))
    read = reader(data)
    assert pixels_of(read.path(data)).shape == (133, 160, 3)
    assert read.path(data).stat().st_size < 20_000


def test_a_broken_image_has_none_and_the_others_have_theirs(reader):
    good, broken = written(LEFT_HALF_RED), written(LEFT_HALF_RED)[:60]
    read = reader(broken, good)
    assert (read.done.read, read.done.failed) == (1, 1)
    assert read.files == [read.path(good)]


def test_a_folder_that_cannot_be_written_costs_no_embedding(reader, tmp_path):
    (tmp_path / "thumbnails").write_text("a file, where the folder should be")
    data = written(LEFT_HALF_RED)
    read = reader(data)
    assert (read.done.read, read.done.failed) == (1, 0)
    assert read.embedded() == {sha(data)}


def test_a_thumbnail_that_is_there_is_not_made_again(tmp_path):
    content = sha(b"x")
    thumbnails.keep(tmp_path, content, LEFT_HALF_RED)
    before = thumbnails.path_of(tmp_path, content).stat()
    thumbnails.keep(tmp_path, content, LEFT_HALF_RED)
    assert thumbnails.path_of(tmp_path, content).stat() == before


@pytest.mark.parametrize("name", ["", "../x", "a" * 63, "A" * 64, "a" * 65, "g" * 64, "a" * 64 + "\n"])
def test_what_is_no_content_hash_has_no_place(tmp_path, name):
    assert thumbnails.path_of(tmp_path, name) is None
