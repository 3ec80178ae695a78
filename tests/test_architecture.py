"""The rules of the house, checked with the tools themselves, so that `make test` is all there is to pass."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "ls_backend"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 600
BIN = Path(sys.executable).parent


def passes(*command):
    """Run a tool in the repository; its own words become the failure message."""
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_the_code_is_formatted():
    passes(BIN / "ruff", "format", "--check", "--diff")


def test_the_linter_is_content():
    passes(BIN / "ruff", "check")


def test_the_types_hold():
    passes(sys.executable, "-m", "mypy")


def test_imports_go_down_only_and_libraries_stay_in_their_rooms():
    passes(BIN / "lint-imports", "--no-cache")


def test_the_words_are_spelled():
    passes(BIN / "codespell")


def test_no_module_is_longer_than_600_lines():
    lengths = {str(path.relative_to(REPOSITORY)): len(path.read_text().splitlines()) for path in MODULES}
    assert lengths
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}


def test_no_module_is_named_after_nothing():
    empty_words = re.compile(r"(^|_)(utils?|helpers?|managers?|common|misc)(_|$)")
    names = {part for path in MODULES for part in path.relative_to(PACKAGE).with_suffix("").parts}
    assert [name for name in sorted(names) if empty_words.search(name)] == []


@pytest.mark.parametrize("module", ["ls_backend.web.app", "ls_backend.cli", "ls_backend.jobs.workers"])
def test_the_server_the_command_line_and_an_idle_train_worker_do_without_torch(module):
    more = "; import ls_backend.engine.context, ls_backend.engine.deep" if "jobs" in module else ""
    program = f"import sys, {module}{more}; print(sorted({{'torch', 'torchvision', 'lancedb'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_the_constraints_leave_torch_to_the_platform_and_name_no_registry():
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin) for pin in pins)
    names = {pin.split("==")[0] for pin in pins}
    assert {"flask", "lancedb", "numpy", "pytest", "rq"} <= names
    assert [name for name in sorted(names) if re.match(r"torch|triton|nvidia|cuda", name)] == []


def test_the_shell_scripts_parse():
    passes("bash", "-n", ".ci/run")
