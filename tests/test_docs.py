"""Written words that could drift from the code."""

from __future__ import annotations

import re
from pathlib import Path

from ls_backend.settings import Settings, env_names

REPOSITORY = Path(__file__).resolve().parents[1]


def read_env_example():
    """Name -> (value, the comment above it)."""
    found = {}
    comment = []
    for line in (REPOSITORY / ".env.example").read_text().splitlines():
        if line.startswith("#"):
            comment.append(line.removeprefix("#").strip())
        elif line:
            name, value = line.split("=", 1)
            found[name] = (value, " ".join(comment))
            comment = []
        else:
            comment = []
    return found


def test_the_env_example_names_every_setting_with_its_description():
    written = read_env_example()
    assert set(written) == {names[0] for names in env_names().values()}
    for field, (first, *others) in env_names().items():
        _, comment = written[first]
        assert Settings.model_fields[field].description in comment
        assert all(re.search(rf"\b{name}\b", comment) for name in others)


def test_the_env_example_shows_the_defaults(monkeypatch):
    for names in env_names().values():
        for name in names:
            monkeypatch.delenv(name, raising=False)
    untouched = Settings()
    for name, (value, _) in read_env_example().items():
        monkeypatch.setenv(name, value)
    assert Settings() == untouched


def test_every_environment_name_is_unique():
    names = [name for group in env_names().values() for name in group]
    assert len(names) == len(set(names))


def test_the_compose_file_uses_only_known_settings():
    known = {name for group in env_names().values() for name in group}
    text = (REPOSITORY / "docker-compose.yml").read_text()
    assert set(re.findall(r"\$\{([A-Z_]+)", text)) <= known
