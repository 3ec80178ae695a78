from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from ls_backend.errors import StoreError
from ls_backend.vision import checkpoints

ARRAYS = {
    "weights": np.arange(12, dtype=np.float32).reshape(3, 4),
    "counts": np.array([1, 2, 3]),
    "temperature": np.asarray(1.5),
}
CARD = {"version_id": "al-1-0123abcd", "classes": ["crack", "größer"], "n_labels": 12}


def test_what_is_saved_is_loaded(tmp_path):
    checkpoints.save(tmp_path / "deep" / "al-1", CARD, ARRAYS)
    card, arrays = checkpoints.load(tmp_path / "deep" / "al-1")
    assert card == CARD
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].shape == array.shape
        np.testing.assert_array_equal(arrays[name], array)


def test_arrays_that_are_views_are_saved_as_they_look(tmp_path):
    transposed = ARRAYS["weights"].T[::-1]
    checkpoints.save(tmp_path / "al-1", {}, {"a": transposed})
    np.testing.assert_array_equal(checkpoints.load(tmp_path / "al-1")[1]["a"], transposed)


def test_a_version_is_never_overwritten(tmp_path):
    checkpoints.save(tmp_path / "al-1", CARD, ARRAYS)
    with pytest.raises(StoreError, match="exists already"):
        checkpoints.save(tmp_path / "al-1", {"other": 1}, ARRAYS)
    assert checkpoints.load(tmp_path / "al-1")[0] == CARD
    assert [path.name for path in tmp_path.iterdir()] == ["al-1"]


def test_a_flipped_bit_in_the_arrays_is_found(tmp_path):
    checkpoints.save(tmp_path / "al-1", CARD, ARRAYS)
    path = tmp_path / "al-1" / "arrays.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match="hash"):
        checkpoints.load(tmp_path / "al-1")


@pytest.mark.parametrize("card", [b"", b"[]", b'{"format": 99}', b"\xff\xfe", b'{"format": 1}'])
def test_a_damaged_or_newer_card_is_refused(tmp_path, card):
    checkpoints.save(tmp_path / "al-1", CARD, ARRAYS)
    (tmp_path / "al-1" / "card.json").write_bytes(card)
    with pytest.raises(StoreError, match="al-1 cannot be used"):
        checkpoints.load(tmp_path / "al-1")


@pytest.mark.parametrize("lost", ["card.json", "arrays.safetensors"])
def test_a_version_with_a_missing_file_is_refused(tmp_path, lost):
    checkpoints.save(tmp_path / "al-1", CARD, ARRAYS)
    (tmp_path / "al-1" / lost).unlink()
    with pytest.raises(StoreError, match="cannot be used"):
        checkpoints.load(tmp_path / "al-1")


def test_a_missing_version_is_refused(tmp_path):
    with pytest.raises(StoreError, match="al-9 cannot be used"):
        checkpoints.load(tmp_path / "al-9")


@pytest.mark.parametrize("card", [{"a": object()}, {"a": float("nan")}])
def test_a_card_that_is_no_json_leaves_nothing_behind(tmp_path, card):
    with pytest.raises(StoreError, match="JSON"):
        checkpoints.save(tmp_path / "al-1", card, ARRAYS)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_is_a_store_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot be written"):
        checkpoints.save(tmp_path / "file" / "al-1", CARD, ARRAYS)


def test_names_lists_whole_versions_only(tmp_path):
    assert checkpoints.names(tmp_path / "none") == []
    for name in ("al-2", "al-1"):
        checkpoints.save(tmp_path / name, CARD, ARRAYS)
    (tmp_path / "al-3").mkdir()
    (tmp_path / ".partial-x").mkdir()
    (tmp_path / ".partial-x" / "card.json").write_text("{}")
    assert checkpoints.names(tmp_path) == ["al-1", "al-2"]


def test_delete_removes_a_version_and_a_second_time_does_nothing(tmp_path):
    checkpoints.save(tmp_path / "al-1", CARD, ARRAYS)
    checkpoints.delete(tmp_path / "al-1")
    checkpoints.delete(tmp_path / "al-1")
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_dead_process_go_with_the_next_save_and_fresh_ones_stay(tmp_path):
    for name, age_s in (("old", 7200), ("new", 0)):
        left = tmp_path / f".partial-{name}"
        left.mkdir()
        os.utime(left, (time.time() - age_s,) * 2)
    checkpoints.save(tmp_path / "al-1", CARD, ARRAYS)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".partial-new", "al-1"]


def save_for_ever(folder):
    big = {"weights": np.zeros((300, 1280), np.float32)}
    round_ = 0
    while True:
        checkpoints.save(folder / f"al-{round_}", {"round": round_}, big)
        round_ += 1


def test_a_process_killed_while_saving_never_leaves_half_a_version(tmp_path):
    spawn = multiprocessing.get_context("fork")
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        process = spawn.Process(target=save_for_ever, args=(folder,))
        process.start()
        deadline = time.monotonic() + 30
        while not checkpoints.names(folder) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.003 * attempt)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        found = checkpoints.names(folder)
        assert found
        assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == set(found)
        for name in found:
            assert checkpoints.load(folder / name)[0]["round"] == int(name[3:])


def save_one(folder, number, answers):
    try:
        checkpoints.save(folder, {"by": number}, {"a": np.full(10_000, number)})
        answers.put(number)
    except StoreError:
        answers.put(None)


def test_of_processes_that_save_the_same_version_exactly_one_wins(tmp_path):
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    processes = [fork.Process(target=save_one, args=(tmp_path / "al-1", i, answers)) for i in range(4)]
    for process in processes:
        process.start()
    winners = [answers.get(timeout=30) for _ in processes]
    for process in processes:
        process.join()
    winner = [number for number in winners if number is not None]
    assert len(winner) == 1
    card, arrays = checkpoints.load(tmp_path / "al-1")
    assert card["by"] == winner[0]
    assert (arrays["a"] == winner[0]).all()


def test_the_card_is_plain_json_a_person_can_read(tmp_path):
    checkpoints.save(tmp_path / "al-1", CARD, ARRAYS)
    assert json.loads((tmp_path / "al-1" / "card.json").read_text())["card"] == CARD
