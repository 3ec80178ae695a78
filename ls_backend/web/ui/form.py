"""Project settings as a form: values in, values out, and what is wrong with them.

A form is a flat table of names and texts, as a browser sends it. The name of a setting is its path
(`objectives.uncertainty.strength`), a cell of a table has its classes behind that, as JSON
(`objectives.value.costs/["crack", "fine"]`), a rule its number (`objectives.metadata.0.field`), and the name of an
objective itself is ticked ("on") where the project says it instead of the preset.

What is not touched stays as it was, to the letter: settings are read as changes to those the form was made from. So an
objective that is left to the preset stays left to it, although the form shows the preset's values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from ls_backend.engine import configure
from ls_backend.errors import BackendError
from ls_backend.settings import Objectives, ProjectSettings
from ls_backend.strategies import presets
from ls_backend.web.ui.fields import OBJECTIVES, Choice, Field, Section, parts, sections

Values = Mapping[str, str]

ON = "on"
"""Value of a box that is ticked; one that is not is not sent."""

OWN = "{}"
"""Choice of shares for each class, beside the choices that have a name."""

LONGEST_TABLE = 100  # classes; beyond that JSON is easier to read and to send
LARGEST_MATRIX = 12  # classes; more columns do not fit a page

_DEPTHS: Mapping[str, int] = {"shares": 1, "choice or shares": 1, "costs": 2}  # classes that a cell of a table has
_LONGEST_SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class Reading:
    """What a form comes to.

    Attributes:
        settings: None when something is wrong.
        errors: What is wrong, by the name of the field; "" for what is wrong with several together.
    """

    settings: ProjectSettings | None
    errors: Mapping[str, str]


class Form:
    """The form of one project.

    Args:
        classes: Labels of the project, for tables; none while they are not known, and then JSON takes their place.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)

    def written(self, settings: ProjectSettings, shown: str | None = None) -> dict[str, str]:
        """Return the texts that the fields hold.

        Args:
            settings: What to show.
            shown: Preset whose values stand in the objectives that are left to the preset; None for that of the
                settings.

        Raises:
            StrategyUnknown: There is no such preset.
        """
        given = settings.model_dump(mode="json")
        named = given.pop(OBJECTIVES)
        known = Objectives.model_validate(named)
        stated = known.model_dump(mode="json", exclude_unset=True)
        preset = configure.effective(ProjectSettings(preset=shown or settings.preset))
        full = {name: value if name in named else preset[name] for name, value in known.model_dump(mode="json").items()}
        texts: dict[str, str] = {}
        for path, field in parts().items():
            name = field.name
            if path == name:
                texts |= self._texts(field, path, given[name])
                continue
            texts[path] = ON if name in named else ""
            # A rule shows what it was given and no more: without a strength it may be a filter.
            value = stated.get(name, []) if field.kind == "rows" else full[name]
            texts |= self._texts(field, path, value)
        return texts

    def tidied(self, values: Values) -> dict[str, str]:
        """Return texts with empty rows dropped, the others numbered from 0, and one empty row at the end."""
        tidy = dict(values)
        for path, field in parts().items():
            if field.kind == "rows":
                rows = [row for _, row in _rows(path, tidy) if any(row.values())]
                tidy = {name: text for name, text in tidy.items() if not name.startswith(f"{path}.")}
                for number, row in enumerate([*rows, {part.name: "" for part in field.parts}]):
                    tidy |= {f"{path}.{number}.{name}": text for name, text in row.items()}
        return tidy

    def filled_from(self, values: Values, base: ProjectSettings, shown: str, preset: str) -> dict[str, str]:
        """Return texts in which the objectives that are left to the preset show what another preset says.

        Args:
            values: As they were sent.
            base: Settings that the form was made from.
            shown: Preset whose values stand in the form.
            preset: Preset whose values are wanted.

        Raises:
            StrategyUnknown: There is no such preset.
        """
        texts = self.tidied(values)
        before, after = self.written(base, shown), self.written(ProjectSettings(preset=preset))
        for path, field in parts().items():
            if path == field.name or texts.get(path):
                continue
            if before[path] or _mine(path, texts) == _mine(path, before):
                texts = {name: text for name, text in texts.items() if not _belongs(name, path)}
                texts |= {name: text for name, text in after.items() if _belongs(name, path)}
        return texts

    def read(
        self, values: Values, base: ProjectSettings, shown: str, check: Callable[[ProjectSettings], None]
    ) -> Reading:
        """Read settings from texts, as changes to those the form was made from.

        Args:
            values: As `tidied` returns them.
            base: Settings that the form was made from.
            shown: Preset whose values stood in the objectives that were left to the preset.
            check: Raises `BackendError` for settings that name what does not exist.

        Raises:
            StrategyUnknown: There is no preset of the name `shown`.
        """
        before = self.written(base, shown)
        errors: dict[str, str] = {}
        tops = base.model_dump(mode="json")
        named = tops.pop(OBJECTIVES)
        changed: dict[str, Any] = {}
        for path, field in parts().items():
            touched = _mine(path, values) != _mine(path, before)
            if path == field.name:
                if touched:
                    tops[path] = self._value(field, path, values, errors)
                continue
            was, said = bool(before[path]), bool(values.get(path))
            if said or (touched and not was):
                if touched or not was:
                    changed[field.name] = self._value(field, path, values, errors)
            else:
                named.pop(field.name, None)
        errors |= {name: f"{name} is not a field of this form." for name in values if not _exists(name)}
        try:
            known = Objectives.model_validate(changed).model_dump(mode="json", exclude_unset=True)
        except ValidationError as error:
            errors = _located(error, values, above=(OBJECTIVES,)) | errors
            known = {}
        try:
            wanted = ProjectSettings.model_validate({**tops, OBJECTIVES: named | known})
        except ValidationError as error:
            errors = _located(error, values) | errors
        if errors:
            return Reading(None, errors)
        errors = _unknown(wanted, check)
        return Reading(None if errors else wanted, errors)

    def _texts(self, field: Field, name: str, value: Any) -> dict[str, str]:  # noqa: ANN401 - what JSON can hold
        """Return the texts of one field."""
        if field.kind == "group":
            inner = [self._texts(part, f"{name}.{part.name}", value[part.name]) for part in field.parts]
            return {key: text for texts in inner for key, text in texts.items()}
        if field.kind == "rows":
            rows = [*value, {}]
            return {
                f"{name}.{number}.{part.name}": _text(part, row.get(part.name))
                for number, row in enumerate(rows)
                for part in field.parts
            }
        if field.kind in _DEPTHS and self._fits(field, value):
            return self._cells(field, name, value)
        return {name: _text(field, value)}

    def _fits(self, field: Field, value: Any) -> bool:  # noqa: ANN401 - what JSON can hold
        """Whether a table of the project's classes can hold a value, to the letter."""
        longest = LARGEST_MATRIX if field.kind == "costs" else LONGEST_TABLE
        if not 0 < len(self.classes) <= longest:
            return False
        if not isinstance(value, dict):
            return True
        inner = value.values() if field.kind == "costs" else ()
        return value.keys() <= set(self.classes) and all(row and row.keys() <= set(self.classes) for row in inner)

    def _cells(self, field: Field, name: str, value: Any) -> dict[str, str]:  # noqa: ANN401 - what JSON can hold
        shares = value if isinstance(value, dict) else {}
        if field.kind == "costs":
            return {
                _cell(name, truth, answer): _number(shares.get(truth, {}).get(answer))
                for truth in self.classes
                for answer in self.classes
            }
        texts = {_cell(name, one): _number(shares.get(one)) for one in self.classes}
        if field.kind == "choice or shares":
            texts[name] = OWN if isinstance(value, dict) else value
        return texts

    def _value(self, field: Field, name: str, values: Values, errors: dict[str, str]) -> Any:  # noqa: ANN401 - for JSON
        """Return what a field says, as JSON would; numbers stay texts, which the settings read."""
        text = values.get(name, "")
        if field.kind == "group":
            return {part.name: self._value(part, f"{name}.{part.name}", values, errors) for part in field.parts}
        if field.kind == "rows":
            return [
                {
                    part.name: self._value(part, f"{name}.{number}.{part.name}", values, errors)
                    for part in field.parts
                    if row.get(part.name)
                }
                for number, row in _rows(name, values)
                if any(row.values())
            ]
        if field.kind in _DEPTHS and (name not in values or text == OWN):
            return _table(name, values, _DEPTHS[field.kind])
        return _single(field, name, text, errors)


@dataclass(frozen=True)
class Filled:
    """A form with texts in it, as a page shows it.

    Attributes:
        values: Texts by name.
        errors: What is wrong, by name.
        shown: Preset whose values stand in the objectives that are left to the preset.
    """

    values: Values
    errors: Mapping[str, str]
    shown: str

    @property
    def sections(self) -> tuple[Section, ...]:
        """All fields."""
        return sections()

    def value(self, name: str) -> str:
        """Return the text of a field."""
        return self.values.get(name, "")

    def error(self, name: str) -> str:
        """Return what is wrong with a field, empty when nothing is."""
        return self.errors.get(name, "")

    def choices(self, field: Field, name: str) -> tuple[Choice, ...]:
        """Return what may be chosen, and what is chosen now although it is not known."""
        now = self.value(name)
        if not now or any(choice.value == now for choice in field.choices):
            return field.choices
        return (*field.choices, Choice(now, "not known here"))

    def cells(self, name: str) -> dict[str, str]:
        """Return the names of the cells of a table by class; empty where there is no table."""
        return {keys[0]: cell for cell, keys in _cells_of(name, self.values, depth=1)}

    def matrix(self, name: str) -> dict[str, dict[str, str]]:
        """Return the names of the cells of a cost matrix by true class, then by answer; empty where there is none."""
        found: dict[str, dict[str, str]] = {}
        for cell, (truth, answer) in _cells_of(name, self.values, depth=2):
            found.setdefault(truth, {})[answer] = cell
        return found

    def rows(self, name: str) -> list[int]:
        """Return the numbers of the rules, the empty one at the end among them."""
        return [number for number, _ in _rows(name, self.values)]

    def says(self, field: Field) -> str:
        """Return in words what the chosen preset says about an objective."""
        chosen = self.value("preset")
        preset = chosen if chosen in presets() else self.shown
        value = configure.effective(ProjectSettings(preset=preset))[field.name]
        told = [
            f"{name.replace('_', ' ')} {_text(None, one)}" for name, one in (value or {}).items() if one not in ({}, [])
        ]
        return f"{preset}: {', '.join(told) or 'nothing'}"


def _text(field: Field | None, value: Any) -> str:  # noqa: ANN401 - what JSON can hold
    """Write a value as the text of one input."""
    if isinstance(value, bool):
        return ON if value else ""
    if isinstance(value, str):
        return _quoted(value) if field is not None and field.kind == "text" else value
    return _number(value) if value is None or isinstance(value, int | float) else json.dumps(value, ensure_ascii=False)


def _number(value: float | None) -> str:
    return "" if value is None else repr(value).removesuffix(".0")


def _quoted(text: str) -> str:
    """Write a text as JSON where an input would not keep it as it is."""
    plain = text.isprintable() and text == text.strip() and not text.startswith('"')
    return text if plain else json.dumps(text)


def _unquoted(text: str) -> str:
    text = text.strip()
    if text.startswith('"'):
        try:
            return str(json.loads(text))
        except ValueError:
            return text
    return text


def _single(field: Field, name: str, text: str, errors: dict[str, str]) -> Any:  # noqa: ANN401 - what JSON can hold
    """Read a value from the text of one input."""
    if field.kind == "flag":
        return bool(text)
    if not text.strip() and field.optional:
        return None
    if field.kind in ("number", "choice"):
        return text.strip()
    return _unquoted(text) if field.kind == "text" else _parsed(field, name, text, errors)


def _parsed(field: Field, name: str, text: str, errors: dict[str, str]) -> Any:  # noqa: ANN401 - what JSON can hold
    """Read JSON; a choice that has a name needs no quotes."""
    if text.strip() in {choice.value for choice in field.choices}:
        return text.strip()
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f" ({error.msg} at character {error.pos})" if isinstance(error, json.JSONDecodeError) else ""
        words = "".join(f", or {choice.value}" for choice in field.choices)
        errors[name] = (
            f'{name} is {_shown(text)}, which is not JSON{where}; expected an object such as {{"name": 2}}{words}.'
        )
        return {}


def _shown(value: object) -> str:
    text = str(value)
    if not text.strip():
        return "empty"
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."


def _cell(name: str, *classes: str) -> str:
    return f"{name}/{json.dumps(classes)}"


def _exists(name: str) -> bool:
    """Whether a page of ours may have a field of that name."""
    plain, slash, keys = name.partition("/")
    named = dict(parts())
    for path, field in parts().items():
        if field.kind == "rows":
            number = re.match(re.escape(path) + r"\.(\d{1,6})\.", plain)
            named |= {f"{path}.{number[1]}.{part.name}": part for part in field.parts} if number else {}
        else:
            named |= {part.path: part for part in field.parts}
    found = named.get(plain)
    return found is not None and (not slash or bool(_keys(keys, _DEPTHS.get(found.kind, 0))))


def _keys(text: str, depth: int) -> list[str]:
    """Read the classes of a cell; none where the text is not that of a cell of so many."""
    try:
        keys = json.loads(text)
    except (ValueError, RecursionError):
        return []
    fits = isinstance(keys, list) and len(keys) == depth and all(isinstance(key, str) for key in keys)
    return keys if fits else []


def _cells_of(name: str, values: Values, depth: int) -> list[tuple[str, list[str]]]:
    """Return the cells of a table, with the classes of each.

    Args:
        name: Of the table.
        values: Texts by name.
        depth: Classes that a cell has: 1 in a list of them, 2 in a matrix.
    """
    cells = [(cell, _keys(cell.removeprefix(f"{name}/"), depth)) for cell in values if cell.startswith(f"{name}/")]
    return [(cell, keys) for cell, keys in cells if keys]


def _table(name: str, values: Values, depth: int) -> dict[str, Any]:
    """Read the cells of a table that are filled in."""
    table: dict[str, Any] = {}
    for cell, (*above, last) in _cells_of(name, values, depth):
        if values[cell].strip():
            row = table.setdefault(above[0], {}) if above else table
            row[last] = values[cell].strip()
    return table


def _rows(name: str, values: Values) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a field, by number."""
    found: dict[int, dict[str, str]] = {}
    pattern = re.compile(re.escape(name) + r"\.(\d{1,6})\.(\w+)")
    for key, text in values.items():
        match = pattern.fullmatch(key)
        if match:
            found.setdefault(int(match[1]), {})[match[2]] = text
    return sorted(found.items())


def _belongs(name: str, path: str) -> bool:
    """Whether a name is that of a part of a setting."""
    return name.startswith((f"{path}.", f"{path}/"))


def _mine(path: str, values: Values) -> dict[str, str]:
    """Return what is filled in for one setting, without the tick of an objective."""
    itself = path if not path.startswith(f"{OBJECTIVES}.") else None
    return {name: text for name, text in values.items() if text and (name == itself or _belongs(name, path))}


def _located(error: ValidationError, values: Values, above: tuple[str, ...] = ()) -> dict[str, str]:
    """Say what is wrong by the name of the field that is to be corrected."""
    found: dict[str, str] = {}
    for item in error.errors():
        where = [*above, *(str(part) for part in item["loc"])]
        name = _nearest(where, values)
        value = "" if item["type"] == "missing" else item.get("input")
        told = f"{'.'.join(where)} is {_shown(value)}: {item['msg']}."
        found.setdefault(name, told)
    cells = {name.partition("/")[0] for name in found if "/" in name}
    return {name: told for name, told in found.items() if name not in cells}  # the cell says it better


def _nearest(where: Sequence[str], values: Values) -> str:
    """Return the name of the field, cell or group that a place in the settings belongs to."""
    for end in range(len(where), 0, -1):
        path, rest = ".".join(where[:end]), where[end:]
        for keys in (rest, rest[1:]):  # of several types, the type that was tried stands between
            if keys and _cell(path, *keys) in values:
                return _cell(path, *keys)
        if path in values or any(_belongs(name, path) for name in values):
            return path
    return ""


def _unknown(wanted: ProjectSettings, check: Callable[[ProjectSettings], None]) -> dict[str, str]:
    """Say which settings name what does not exist; which ones, shows checking each by itself."""
    try:
        check(wanted)
    except BackendError as error:
        told = str(error)
    else:
        return {}
    values = wanted.model_dump(mode="json")
    alone = {f"{OBJECTIVES}.{name}": {OBJECTIVES: {name: value}} for name, value in values.pop(OBJECTIVES).items()}
    alone |= {name: {name: value} for name, value in values.items()}
    errors = {}
    for path, part in alone.items():
        try:
            check(ProjectSettings.model_validate(part))
        except BackendError as error:
            errors[path] = str(error)
    return errors or {"": told}
