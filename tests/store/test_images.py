from __future__ import annotations

from dataclasses import replace

from ls_backend.domain import ImageFacts

FACTS = ImageFacts(width=640, height=480, n_bytes=5_000_000_000, sharpness=12.5, luminance=40.0, contrast=20.25)


def test_facts_come_back_by_content_and_later_ones_win(store):
    assert store.images.known() == set()
    store.images.put({"aa": FACTS, "bb": replace(FACTS, width=1)})
    store.images.put({"bb": replace(FACTS, width=2)})
    store.images.put({})
    assert store.images.get(["aa", "bb", "bb", "cc"]) == {"aa": FACTS, "bb": replace(FACTS, width=2)}
    assert store.images.get([]) == {}
    assert store.images.known() == {"aa", "bb"}


def test_many_are_stored_and_read_at_once(store):
    given = {f"{i:064x}": replace(FACTS, width=i) for i in range(3000)}
    store.images.put(given)
    assert store.images.get(given) == given
