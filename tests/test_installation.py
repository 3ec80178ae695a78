"""label-studio-ml is installed without what it pins: an old Flask, and a package that overwrites attrs."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def major(name):
    return int(metadata.version(name).split(".")[0])


def test_label_studio_ml_is_there_and_its_pins_are_not():
    assert metadata.version("label-studio-ml") == "1.0.9"
    assert (major("flask"), major("werkzeug"), major("jinja2")) == (3, 3, 3)
    assert (major("itsdangerous"), int(metadata.version("itsdangerous").split(".")[1])) >= (2, 1)
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.distribution("attr")


def test_the_module_attr_is_that_of_attrs():
    belongs_to = {str(path.locate()) for path in metadata.files("attrs") if path.name == "__init__.py"}
    assert importlib.util.find_spec("attr").origin in belongs_to


def test_the_extra_ml_names_what_is_needed_and_not_what_is_pinned():
    extra = {re.split(r"[<>=]", line)[0] for line in PROJECT["optional-dependencies"]["ml"]}
    ours = {re.split(r"[<>=;]", line)[0] for line in PROJECT["dependencies"]}
    pinned = {"flask", "jinja2", "werkzeug", "itsdangerous", "attr"}
    needed = {re.split(r"[ (<>=;]", line)[0].lower() for line in metadata.requires("label-studio-ml")} - pinned
    # lxml and appdirs come with label-studio-tools, which asks for them itself.
    through_tools = {re.split(r"[ (<>=;]", line)[0].lower() for line in metadata.requires("label-studio-tools")}
    assert needed <= extra | ours | through_tools
    assert not pinned & extra


@pytest.mark.parametrize("file", ["Makefile", "Dockerfile"])
def test_every_way_to_install_leaves_the_pins_out(file):
    lines = [line for line in (REPOSITORY / file).read_text().splitlines() if "label-studio-ml" in line]
    assert lines
    assert all("--no-deps" in line for line in lines)
