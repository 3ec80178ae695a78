"""Images that cannot be used: each is named with its remedy, the rest goes on, and once mended nothing is missing."""

from __future__ import annotations

import io
import socket
import struct
import zlib

import pytest
from PIL import Image

from ls_backend.engine.predict import predict_tasks

pytestmark = pytest.mark.e2e


def bomb():
    """A PNG of a few bytes that says it has 2,500 million pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def picture(shade):
    file = io.BytesIO()
    Image.new("L", (64, 64), shade).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def faulty(make_lab):
    """A project of 12 tasks, 5 of whose images are of no use; 6 tasks are labelled, one of the 5 among them."""
    lab = make_lab(12)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    bad = dict(zip(("text", "gone", "closed", "bomb", "no field"), lab.tasks[:5], strict=True))
    files = lab.client.upload_files(lab.pid, {"notes.png": b"this is a text, not an image", "bomb.png": bomb()})
    lab.client.update_task(bad["text"], {"image": files["notes.png"]})
    lab.client.update_task(bad["gone"], {"image": f"/data/upload/{lab.pid}/nothing-here.png"})
    lab.client.update_task(bad["closed"], {"image": f"http://127.0.0.1:{port}/a.png"})
    lab.client.update_task(bad["bomb"], {"image": files["bomb.png"]})
    lab.client.update_task(bad["no field"], {"picture": "somewhere else"})
    lab.label(bad["text"], *lab.tasks[5:10])
    lab.update()
    lab.bad = bad
    return lab


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("text", "plain text"),
        ("gone", "Label Studio, well otherwise, answers 500"),
        ("closed", "gives no answer"),
        ("bomb", "pixels"),
        ("no field", "image"),
    ],
)
def test_each_image_that_is_of_no_use_is_named_with_its_remedy(faulty, kind, word):
    task_id = faulty.bad[kind]
    finding = faulty.problems("image-unreadable")[f"task {task_id}"]
    assert f"ask {task_id}" in finding.message
    assert word in finding.message
    assert len(finding.remedy) > 20


def test_a_task_without_the_image_field_is_told_which_field_is_missing(faulty):
    finding = faulty.problems("image-unreadable")[f"task {faulty.bad['no field']}"]
    assert "its data has no 'image'" in finding.message
    assert "Add the field" in finding.remedy


def test_the_other_images_are_embedded_and_ranked(faulty):
    assert len(faulty.problems("image-unreadable")) == 5
    assert faulty.context.store.tasks.counts(faulty.pid).unread == 0
    served = faulty.queue()
    waiting = set(faulty.bad.values()) - {faulty.bad["text"]}
    assert set(served) == waiting | set(faulty.tasks[10:])
    assert set(served[:2]) == set(faulty.tasks[10:]), "tasks that cannot be judged come last"


def test_the_model_learns_from_the_labels_whose_image_can_be_read(faulty):
    faulty.assert_trained_on_what_label_studio_holds(without={faulty.bad["text"]})


def test_a_question_for_an_image_of_no_use_is_left_unanswered(faulty):
    asked = [faulty.bad["gone"], faulty.tasks[11]]
    assert predict_tasks(faulty.context, faulty.pid, asked) == 1
    version = faulty.serving.version_id
    assert set(faulty.context.store.predictions.get(faulty.pid, version, asked)) == {faulty.tasks[11]}


def test_a_mended_image_closes_its_problem_and_its_label_counts(make_lab):
    lab = make_lab(8)
    broken = lab.tasks[0]
    reference = lab.images[broken]
    lab.client.update_task(broken, {"image": f"/data/upload/{lab.pid}/nothing-here.png"})
    lab.label(*lab.tasks[:6])
    lab.update()
    lab.assert_trained_on_what_label_studio_holds(without={broken})
    lab.client.update_task(broken, {"image": reference})
    lab.update()
    assert lab.problems("image-unreadable") == {}
    lab.assert_trained_on_what_label_studio_holds()


def test_a_deleted_task_takes_its_problem_along(make_lab):
    lab = make_lab(8, labelled=4)
    broken = lab.tasks[7]
    lab.client.update_task(broken, {"image": f"/data/upload/{lab.pid}/nothing-here.png"})
    lab.update()
    assert list(lab.problems("image-unreadable")) == [f"task {broken}"]
    lab.client.delete_tasks(lab.pid, [broken])
    lab.reconcile()
    assert lab.problems("image-unreadable") == {}


def test_a_replaced_image_is_read_and_embedded_anew(make_lab):
    # Label Studio sends no event when task data change; the next comparison finds it.
    lab = make_lab(8, labelled=4)
    lab.update()
    changed = lab.tasks[6]
    before = _content(lab, changed)
    reference = lab.client.upload_files(lab.pid, {f"grey-{lab.pid}.png": picture(lab.pid % 200)})
    lab.client.update_task(changed, {"image": next(iter(reference.values()))})
    lab.reconcile()
    after = _content(lab, changed)
    assert after not in {None, before}
    assert len(lab.context.raw_embeddings(lab.context.project_settings(lab.project).backbone, [after])) == 1
    assert changed in lab.queue()


def test_a_pool_without_a_single_usable_image_is_said_and_harms_nothing(make_lab):
    lab = make_lab(3)
    for task_id in lab.tasks:
        lab.client.update_task(task_id, {"image": f"/data/upload/{lab.pid}/nothing-{task_id}.png"})
    lab.update()
    assert len(lab.problems("image-unreadable")) == 3
    assert lab.latest is None


def _content(lab, task_id):
    (row,) = lab.context.store.tasks.images(lab.pid, [task_id])
    return row.content_hash
