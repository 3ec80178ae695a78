"""A terminal that is wide enough for every table, whatever the one is that runs the tests."""

from __future__ import annotations

import pytest

from ls_backend.cli import terminal


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setattr(terminal.out, "_width", 200)
