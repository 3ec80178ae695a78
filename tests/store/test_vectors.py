from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ls_backend.errors import StoreError
from ls_backend.store import Vectors, vectors

DIM = 8
NAME = "efficientnet_lite0"


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "vectors")


@pytest.fixture
def kept(uri):
    return Vectors(uri)


def embeddings(n_rows, seed=0, dim=DIM):
    return np.random.default_rng(seed).standard_normal((n_rows, dim)).astype(np.float32)


def names(n_rows, prefix="h"):
    return [f"{prefix}{row:04d}" for row in range(n_rows)]


def test_embeddings_come_back_in_the_order_asked_for(kept):
    given = embeddings(5)
    kept.append(NAME, DIM, list("abcde"), given)
    loaded = kept.load(NAME, DIM, ["d", "a", "e"])
    np.testing.assert_array_equal(loaded.vectors, given[[3, 0, 4]].astype(np.float16).astype(np.float32))
    assert loaded.vectors.dtype == np.float32
    assert loaded.found.all()
    assert loaded.missing == ()


def test_what_is_missing_is_named_once_and_zero(kept):
    kept.append(NAME, DIM, ["a"], embeddings(1))
    loaded = kept.load(NAME, DIM, ["x", "a", "y", "x"])
    assert loaded.missing == ("x", "y")
    assert loaded.found.tolist() == [False, True, False, False]
    assert not loaded.vectors[[0, 2, 3]].any()


def test_one_image_of_several_tasks_is_loaded_for_each(kept):
    given = embeddings(2)
    kept.append(NAME, DIM, ["a", "b"], given)
    loaded = kept.load(NAME, DIM, ["b", "a", "b", "b"])
    np.testing.assert_allclose(loaded.vectors, given[[1, 0, 1, 1]], atol=2e-3)
    assert loaded.found.all()


def test_a_place_without_embeddings_is_empty_not_an_error(kept):
    assert kept.known(NAME, DIM) == set()
    assert kept.version(NAME, DIM) == 0
    loaded = kept.load(NAME, DIM, ["a"])
    assert (loaded.vectors.shape, loaded.missing) == ((1, DIM), ("a",))
    kept.compact(NAME, DIM)
    kept.append(NAME, DIM, [], np.zeros((0, DIM), dtype=np.float32))
    assert kept.load(NAME, DIM, []).vectors.shape == (0, DIM)


def test_appending_twice_does_no_harm(kept):
    given = embeddings(3)
    for _ in range(2):
        kept.append(NAME, DIM, list("abc"), given)
    assert kept.known(NAME, DIM) == {"a", "b", "c"}
    np.testing.assert_allclose(kept.load(NAME, DIM, list("cab")).vectors, given[[2, 0, 1]], atol=2e-3)


def test_backbones_and_sizes_do_not_mix(kept):
    kept.append(NAME, DIM, ["a"], embeddings(1))
    kept.append(NAME, 4, ["b"], embeddings(1, dim=4))
    kept.append("my net/v1", DIM, ["c"], embeddings(1))
    kept.append("my net_v1", DIM, ["d"], embeddings(1))
    assert [kept.known(NAME, DIM), kept.known(NAME, 4)] == [{"a"}, {"b"}]
    assert [kept.known("my net/v1", DIM), kept.known("my net_v1", DIM)] == [{"c"}, {"d"}]


def test_the_version_moves_with_every_append(kept):
    seen = []
    for name in "abc":
        kept.append(NAME, DIM, [name], embeddings(1))
        seen.append(kept.version(NAME, DIM))
    assert sorted(set(seen)) == seen
    assert kept.version(NAME, DIM) == seen[-1]


def test_more_than_a_look_up_reads_the_whole_table_alike(kept, monkeypatch):
    monkeypatch.setattr(vectors, "_READ_ROWS", 64)
    monkeypatch.setattr(vectors, "_APPEND_ROWS", 100)
    given = embeddings(300)
    kept.append(NAME, DIM, names(300), given)
    asked = [*names(300)[::-1], "other"]
    looked_up = kept.load(NAME, DIM, asked)
    monkeypatch.setattr(vectors, "_LOOK_UP_ROWS", 10)
    scanned = kept.load(NAME, DIM, asked)
    np.testing.assert_array_equal(looked_up.vectors, scanned.vectors)
    np.testing.assert_allclose(scanned.vectors[:300], given[::-1], atol=3e-3)
    assert looked_up.missing == scanned.missing == ("other",)


def test_hashes_are_data_not_conditions(kept):
    kept.append(NAME, DIM, ["a' OR 'x'='x", "b"], embeddings(2))
    assert kept.load(NAME, DIM, ["a' OR 'x'='x"]).found.all()
    assert kept.load(NAME, DIM, ["c' OR 'x'='x"]).missing == ("c' OR 'x'='x",)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros((2, DIM + 1), dtype=np.float32), "shape"),
        (np.zeros((1, DIM), dtype=np.float32), "shape"),
        (np.full((2, DIM), np.nan, dtype=np.float32), "2 of 2 embeddings"),
        (np.full((2, DIM), 1e6, dtype=np.float32), "float16"),
    ],
)
def test_embeddings_that_cannot_be_kept_are_refused(kept, given, words):
    with pytest.raises(StoreError, match=words):
        kept.append(NAME, DIM, ["a", "b"], given)
    assert kept.known(NAME, DIM) == set()


def test_another_process_sees_what_this_one_appends(kept, uri):
    other = Vectors(uri)
    assert other.known(NAME, DIM) == set()
    for name in "abc":
        kept.append(NAME, DIM, [name], embeddings(1))
        assert name in other.known(NAME, DIM)
        assert other.load(NAME, DIM, [name]).found.all()


def test_a_handle_survives_the_compaction_of_another(kept, uri):
    given = embeddings(20)
    for row, name in enumerate(names(20)):
        kept.append(NAME, DIM, [name], given[row : row + 1])
    other = Vectors(uri)
    assert len(other.known(NAME, DIM)) == 20
    kept.compact(NAME, DIM, keep_s=0.001)
    np.testing.assert_allclose(other.load(NAME, DIM, names(20)).vectors, given, atol=2e-3)
    other.append(NAME, DIM, ["new"], embeddings(1))
    assert "new" in kept.known(NAME, DIM)


def test_what_passes_is_tried_again_and_what_does_not_is_told(kept, monkeypatch):
    kept.append(NAME, DIM, ["a"], embeddings(1))
    calls = []

    def fail(message, times):
        def work():
            calls.append(message)
            if len(calls) <= times:
                raise RuntimeError(message)
            return len(calls)

        return work

    assert kept._retry(fail("lance error: Not found: x.lance", 3)) == 4
    calls.clear()
    with pytest.raises(StoreError, match="Retryable commit conflict"):
        kept._retry(fail("Retryable commit conflict for version 3", 9))
    assert len(calls) == 4
    calls.clear()
    with pytest.raises(StoreError, match="disk on fire"):
        kept._retry(fail("disk on fire", 1))
    assert len(calls) == 1


def test_a_full_disk_is_told_before_anything_is_written(kept, monkeypatch):
    usage = SimpleNamespace(free=10 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StoreError, match="10 MB left") as caught:
        kept.append(NAME, DIM, ["a"], embeddings(1))
    assert "Free disk space" in caught.value.hint
    monkeypatch.undo()
    assert kept.known(NAME, DIM) == set()


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="refused"):
        Vectors(str(tmp_path / "file" / "vectors")).append(NAME, DIM, ["a"], embeddings(1))


def test_threads_share_the_handles(kept):
    def work(number):
        for row in range(5):
            kept.append(NAME, DIM, [f"{number}-{row}"], embeddings(1))
            kept.load(NAME, DIM, [f"{number}-{row}"])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept.known(NAME, DIM)) == 20


def test_three_processes_create_and_append_at_once_and_lose_nothing(kept, uri, processes):
    code = """
        import os, sys
        import numpy as np
        from ls_backend.store import Vectors
        kept = Vectors(sys.argv[1])
        for row in range(10):
            kept.append("net", 8, [f"{os.getpid()}-{row}", f"shared-{row}"], np.ones((2, 8), dtype=np.float32))
        assert kept.load("net", 8, [f"{os.getpid()}-{row}" for row in range(10)]).found.all()
    """
    processes(code, uri)
    assert len(kept.known("net", DIM)) == 40
    assert kept.load("net", DIM, [f"shared-{row}" for row in range(10)]).found.all()


def test_a_killed_append_leaves_whole_rows(kept, uri):
    code = """
import sys
import numpy as np
from ls_backend.store import Vectors
kept = Vectors(sys.argv[1])
for row in range(10_000):
    kept.append("net", 64, [f"{row}-{n}" for n in range(500)], np.ones((500, 64), dtype=np.float32))
"""
    with subprocess.Popen([sys.executable, "-c", code, uri]) as writer:
        deadline = time.monotonic() + 60
        while kept.version("net", 64) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        writer.kill()
    known = sorted(kept.known("net", 64))
    assert len(known) >= 1500
    assert len(known) % 500 == 0
    assert kept.load("net", 64, known).vectors.min() == 1.0
    kept.append("net", 64, ["after"], np.ones((1, 64), dtype=np.float32))
    assert "after" in kept.known("net", 64)


@pytest.mark.parametrize("which", ["inherited", "fresh"])
def test_a_child_forked_after_use_is_refused_instead_of_crashing(uri, processes, which):
    code = """
        import os, sys
        import numpy as np
        from ls_backend.errors import StoreError
        from ls_backend.store import Vectors
        kept = Vectors(sys.argv[1])
        kept.append("net", 8, ["a"], np.ones((1, 8), dtype=np.float32))
        child = os.fork()
        if child == 0:
            try:
                (kept if sys.argv[2] == "inherited" else Vectors(sys.argv[1])).append(
                    "net", 8, ["b"], np.ones((1, 8), dtype=np.float32)
                )
            except StoreError as error:
                os._exit(7 if "forked" in str(error) else 8)
            os._exit(9)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    assert processes(code, uri, which, n=1) == ["7"]


def test_a_child_forked_before_use_may_use_it(uri, processes, kept):
    code = """
        import os, sys
        import numpy as np
        from ls_backend.store import Vectors
        kept = Vectors(sys.argv[1])
        child = os.fork()
        if child == 0:
            kept.append("net", 8, ["b"], np.ones((1, 8), dtype=np.float32))
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    assert processes(code, uri, n=1) == ["0"]
    assert kept.known("net", 8) == {"b"}


def test_lancedb_is_not_imported_before_it_is_needed(processes):
    code = """
        import sys
        import ls_backend.store
        ls_backend.store.Vectors("somewhere")
        print({"lancedb", "pyarrow", "torch", "pandas"} & set(sys.modules))
    """
    assert processes(code, n=1) == ["set()"]
    assert not Path("somewhere").exists()
