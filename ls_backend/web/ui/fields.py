"""What a form of project settings asks for: fields made from the JSON schema; no setting is known by its name here.

Only under which heading a setting stands is written here; one that is not written stands under the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from ls_backend.engine import configure

Kind = Literal["choice", "flag", "number", "text", "json", "shares", "choice or shares", "costs", "group", "rows"]

OBJECTIVES = "objectives"
"""The setting whose parts the preset says, as long as the project does not."""

_SECTIONS = (
    ("What comes first", ("preset", "objectives", "explore", "window")),
    ("How the model learns", ("retrain_after", "min_labels", "backbone", "training", "model", "seed")),
    ("How it is measured", ("holdout", "test_set", "test_set_by", "test_set_target")),
    ("What Label Studio shows", ("prelabel", "reasons", "manage_queue")),
)
_REST = "More"


@dataclass(frozen=True)
class Choice:
    """One value of a choice.

    Attributes:
        value: As the settings have it.
        about: What it does; empty where the schema does not say.
    """

    value: str
    about: str = ""


@dataclass(frozen=True)
class Slider:
    """Ends and step of a slider beside a number."""

    low: float
    high: float
    step: float


@dataclass(frozen=True)
class Field:
    """One setting, as the form knows it from the schema.

    Attributes:
        path: Where it stands, with dots; of a part of a rule, its own name alone.
        kind: What it is filled in with.
        about: Help text.
        optional: Whether it may be left empty, which means unset.
        limits: What numbers are accepted, in words, or that JSON is.
        choices: What to choose from.
        suggestions: Values that are often wanted; others are accepted.
        slider: Of a number between two ends that are not far apart.
        parts: Fields of a group, or of each row.
    """

    path: str
    kind: Kind
    about: str = ""
    optional: bool = False
    limits: str = ""
    choices: tuple[Choice, ...] = ()
    suggestions: tuple[str, ...] = ()
    slider: Slider | None = None
    parts: tuple[Field, ...] = ()

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.rpartition(".")[2]

    @property
    def label(self) -> str:
        """What people read beside it."""
        return self.name.replace("_", " ").capitalize()


@dataclass(frozen=True)
class Section:
    """Fields under one heading."""

    title: str
    fields: tuple[Field, ...]


@cache
def sections() -> tuple[Section, ...]:
    """Return every project setting, each once, under headings."""
    described = configure.schema()
    fields = {name: _field(name, part, described["$defs"]) for name, part in described["properties"].items()}
    placed = [Section(title, tuple(fields.pop(name) for name in names if name in fields)) for title, names in _SECTIONS]
    return (*placed, Section(_REST, tuple(fields.values()))) if fields else tuple(placed)


def parts() -> dict[str, Field]:
    """Return every setting that changes as a whole, by path: those of a project, and its objectives."""
    tops = [field for section in sections() for field in section.fields]
    return {field.path: field for top in tops for field in (top.parts if top.path == OBJECTIVES else (top,))}


def _field(path: str, part: Mapping[str, Any], definitions: Mapping[str, Any], *, inside: str = "") -> Field:
    """Make one field of its schema.

    Args:
        path: Where it stands.
        part: Its schema.
        definitions: What references lead to.
        inside: Path of what it is a part of; of a rule, nothing.
    """
    whole = f"{inside}.{path}" if inside else path
    branches = [
        {**_resolved(one, definitions), **{key: value for key, value in part.items() if key != "anyOf"}}
        for one in part.get("anyOf", [part])
        if one.get("type") != "null"
    ]
    kind = _kind(branches)
    first = branches[0]
    about = first.get("description", "")
    parts: tuple[Field, ...] = ()
    if kind == "group":
        parts = tuple(_field(name, one, definitions, inside=whole) for name, one in first["properties"].items())
    elif kind == "rows":
        row = _resolved(first["items"], definitions)
        about = about or row["description"]
        parts = tuple(_field(name, one, definitions) for name, one in row["properties"].items())
    named = [one["const"] for one in branches if "const" in one]
    choices = [Choice(one["const"], one["description"]) for one in first.get("oneOf", [])]
    choices += [Choice(value) for one in branches for value in one.get("enum", named if one is first else [])]
    return Field(
        path=whole,
        kind=kind,
        about=about,
        optional=any(one.get("type") == "null" for one in part.get("anyOf", [])),
        limits="JSON" if kind == "json" else _limits(first),
        choices=tuple(choices),
        suggestions=tuple(part.get("examples", ())),
        slider=_slider(first),
        parts=parts,
    )


def _resolved(part: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """Follow a reference; what stands beside it holds."""
    found = definitions[part["$ref"].rpartition("/")[2]] if "$ref" in part else {}
    return {**found, **part}


_PLAIN: Mapping[str, Kind] = {"boolean": "flag", "integer": "number", "number": "number", "string": "text"}


def _kind(branches: Sequence[Mapping[str, Any]]) -> Kind:
    """Say what a setting is filled in with; JSON will do where nothing better fits.

    Args:
        branches: Schemas of the types it may have, null aside.
    """
    first = branches[0]
    kind: Kind = "json"
    if first.get("x-keys") == "classes":
        if len(branches) > 1:
            kind = "choice or shares"
        else:
            kind = "costs" if "additionalProperties" in first["additionalProperties"] else "shares"
    elif len(branches) > 1:
        pass
    elif "oneOf" in first or "enum" in first:
        kind = "choice"
    elif "properties" in first:
        kind = "group"
    elif "items" in first:
        kind = "rows"
    else:
        kind = _PLAIN.get(first["type"], kind)
    return kind


def _limits(part: Mapping[str, Any]) -> str:
    """Say what numbers are accepted."""
    if part.get("type") not in ("number", "integer"):
        return ""
    low, above, high = (part.get(key) for key in ("minimum", "exclusiveMinimum", "maximum"))
    word = "whole number" if part["type"] == "integer" else "number"
    if low is not None and high is not None:
        return f"{word} from {low:.12g} to {high:.12g}"
    bounds = [
        f"at least {low:.12g}" if low is not None else "",
        f"above {above:.12g}" if above is not None else "",
        f"at most {high:.12g}" if high is not None else "",
    ]
    return ", ".join([word, *filter(None, bounds)])


def _slider(part: Mapping[str, Any]) -> Slider | None:
    low, high = part.get("minimum"), part.get("maximum")
    if part.get("type") != "number" or low is None or high is None or high - low > 10:
        return None
    return Slider(low, high, 0.25 if high - low > 1 else 0.01)
