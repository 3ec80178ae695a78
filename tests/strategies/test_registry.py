from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from ls_backend.errors import StrategyError, StrategyUnknown
from ls_backend.strategies import Plan, Pool, rank, registry, scorer, strategies, unit_rows

CARD = {"formula": "f", "source": "s", "cost": "c", "use_when": "u", "fails_when": "f", "words": "w {value:.1f}"}


@pytest.fixture
def own_table(monkeypatch):
    monkeypatch.setattr(registry, "_TABLE", dict(registry._TABLE))
    registry._load_plugins.cache_clear()
    yield
    registry._load_plugins.cache_clear()


def test_every_method_says_everything_about_itself():
    for method in strategies():
        for field in ("name", "summary", "formula", "source", "cost", "use_when", "fails_when", "words"):
            assert getattr(method, field), f"{method.objective} {method.name} has no {field}"
        assert method.words.format(value=0.25, rest=0.75)
        assert method.needs <= set(Pool.__dataclass_fields__)
        assert "Source:" in method.function.__doc__
        assert "(n,)" in method.function.__doc__


def test_a_name_cannot_be_taken_twice(own_table):
    with pytest.raises(StrategyError, match="'margin' of uncertainty is registered already"):
        scorer("margin", objective="uncertainty", **CARD)(lambda pool: np.zeros(pool.size))


def test_one_decorated_function_is_a_new_method(own_table):
    @scorer("last_row", objective="uncertainty", needs={"probabilities"}, **CARD)
    def last_row(pool):
        """Later rows first."""
        return np.arange(pool.size) / pool.size

    plan = Plan.from_json({"preset": "margin", "objectives": {"uncertainty": {"method": "last_row"}}, "explore": 0})
    pool = Pool(unit_rows(np.ones((9, 2))), np.full((9, 2), 0.5))
    ranking = rank(pool, plan, 3, np.random.default_rng(0))
    assert ranking.indices.tolist() == [8, 7, 6]
    assert ranking.reasons[0] == "w 0.9 (usually 0.4)"


@pytest.mark.parametrize("answer", [np.full(9, 2.0), np.full(9, np.nan), np.zeros(4)])
def test_a_method_that_breaks_its_contract_is_named(own_table, answer):
    scorer("broken", objective="uncertainty", **CARD)(lambda pool: answer)
    plan = Plan.from_json({"objectives": {"uncertainty": {"method": "broken"}}})
    with pytest.raises(StrategyError, match="'broken' of uncertainty returned"):
        rank(Pool(unit_rows(np.ones((9, 2))), np.full((9, 2), 0.5)), plan, 3, np.random.default_rng(0))


def write_distribution(folder, source):
    """What pip leaves behind after installing a package that brings methods."""
    (folder / "their_methods.py").write_text(source)
    info = folder / "theirs-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[ls_backend.strategies]\ntheirs = their_methods\n")


def install(tmp_path, monkeypatch, source):
    write_distribution(tmp_path, source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_methods", raising=False)


THEIRS = f"""
from ls_backend.strategies import scorer

@scorer("second_guess", objective="uncertainty", needs={{"probabilities"}}, **{CARD!r})
def second_guess(pool):
    "The runner-up is likely."
    return 2 * pool.probabilities[:, 1].clip(0, 0.5).astype(float)
"""
THEIR_SCRIPT = """
import json, sys
import numpy as np
from ls_backend.strategies import Plan, Pool, rank, strategies, unit_rows

known = {method.name for method in strategies()} if "list" in sys.argv else set()
plan = Plan.from_json({"preset": "margin", "objectives": {"uncertainty": {"method": "second_guess"}}, "explore": 0})
second = np.array([0.1, 0.4, 0.2, 0.05, 0.3])
pool = Pool(unit_rows(np.ones((5, 3))), np.stack([1 - second, second], axis=1))
ranking = rank(pool, plan, 3, np.random.default_rng(0))
print(json.dumps({"order": ranking.indices.tolist(), "reasons": ranking.reasons, "known": sorted(known)}))
"""


@pytest.mark.parametrize("listed_first", [[], ["list"]])
def test_a_distribution_of_others_ranks_in_a_new_process_by_its_name_alone(tmp_path, listed_first):
    write_distribution(tmp_path, THEIRS)
    paths = [str(tmp_path), *sys.path]
    answer = subprocess.run(
        [sys.executable, "-c", THEIR_SCRIPT, *listed_first],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(answer.stdout)
    assert told["order"] == [1, 4, 2]
    assert told["reasons"] == [f"w {value} (usually 0.4)" for value in (0.8, 0.6, 0.4)]
    assert ("second_guess" in told["known"]) == bool(listed_first)


def test_an_installed_package_brings_its_own_methods(own_table, tmp_path, monkeypatch):
    source = f"from ls_backend.strategies import scorer\n@scorer('theirs', objective='uncertainty', **{CARD!r})\n"
    install(tmp_path, monkeypatch, source + "def theirs(pool):\n    'Theirs.'\n")
    assert registry.find("uncertainty", "theirs").summary == "Theirs."
    assert "theirs" in {method.name for method in strategies()}


def test_a_package_that_cannot_be_loaded_is_named(own_table, tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "raise RuntimeError('no such driver')\n")
    with pytest.raises(StrategyError, match="'their_methods' cannot be loaded: no such driver"):
        registry.find("uncertainty", "theirs")


def test_a_name_of_another_objective_is_unknown():
    with pytest.raises(StrategyUnknown, match="diversity method 'margin'"):
        registry.find("diversity", "margin")


def test_the_table_cannot_be_changed_from_outside():
    with pytest.raises(TypeError):
        registry.table()["x", "y"] = None
