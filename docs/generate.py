"""Write docs/settings.md and docs/strategies.md from the code that they describe: `make docs`."""  # noqa: INP001 - a script beside its output, not a package

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ls_backend.settings import MetadataRule, Objectives, ProjectSettings, Settings, Training, env_names
from ls_backend.strategies import BUILT_IN, Strategy, presets, strategies

FOLDER = Path(__file__).resolve().parent
MARK = "<!-- Written by docs/generate.py from the code. Change the code, then run `make docs`. -->"

# Defaults that the machine decides, in words.
COMPUTED = {"data_dir": "`$XDG_DATA_HOME/ls-backend`, else `~/.local/share/ls-backend`"}


def settings_page() -> str:
    """Return the page of every deployment setting and every project setting."""
    lines = [
        "# Settings",
        "",
        MARK,
        "",
        (
            "There are two kinds. *Deployment settings* say where things are; they come from the environment and are "
            "read once, at the start. *Project settings* say how one project learns and ranks; they are JSON, and "
            "`{}` is a complete, good configuration."
        ),
        "",
        "## Deployment settings",
        "",
        (
            "Environment variables. An empty value counts as unset. `ls-backend` does not read a `.env` file by "
            "itself; Docker Compose does. `.env.example` holds the same list with the same words."
        ),
        "",
        *_table(("Variable", "Default", "Range", "Meaning"), _deployment()),
        "",
        "## Project settings",
        "",
        (
            "Fill them in on the [dashboard](operations.md#the-dashboard), which shows beforehand how the queue would "
            "change, give them to `ls-backend connect --project N --settings JSON`, change some with `ls-backend "
            "settings set --project N PATH=VALUE`, send them to the [JSON API](protocol.md#json-api), or type them in "
            "Label Studio under Settings, Model, Edit, as extra params. An unknown key or an impossible value is "
            "refused by name, and the last good settings stay in force."
        ),
        "",
        (
            "What was said last holds, wherever it was said. Label Studio repeats its extra params at every load of a "
            "page; they count as said only when they differ from what it said before. So a change made elsewhere "
            "stays, and the field in Label Studio then shows something that is no longer in force: `ls-backend "
            "settings get` and the dashboard show what is, and `ls-backend settings history` who changed what."
        ),
        "",
        *_table(("Setting", "Default", "Range", "Meaning"), _fields(ProjectSettings)),
        "",
        "### Deeper training",
        "",
        (
            "What `training` holds. Boxes and outlines need a network of their own; it is trained in the background, "
            "while the heads go on learning from every label."
        ),
        "",
        *_table(("Field", "Default", "Range", "Meaning"), _fields(Training)),
        "",
        "### Objectives",
        "",
        (
            "The priority of a task is the product of these factors, each raised to its strength. `objectives` "
            "overrides the preset one objective at a time: an objective that is named replaces that of the preset "
            "whole."
        ),
        "",
    ]
    for name, field in Objectives.model_fields.items():
        if name == "metadata":
            about, rows = "A list of rules about fields of the task data; all of them apply.", _fields(MetadataRule)
        else:
            model = _model(field)
            about, rows = (model.__doc__ or "").strip(), _fields(model)
        lines += [f"#### `{name}`", "", about, "", *_table(("Field", "Default", "Range", "Meaning"), rows), ""]
    lines += [
        (
            "A metadata rule with `min` or `max` and no `strength` only filters. A task that lacks the field stays in "
            "the queue, in the middle. What is measured needs no field: size (`width`, `height`, `aspect`, `bytes`), "
            "`sharpness` (variance of the Laplacian), `luminance` (mean L*, 0 to 100) and `contrast` (its standard "
            "deviation) when an image is read, and the cosine distance to the most similar other task when a rule "
            "asks for it. That one is searched in 64 dimensions; in large projects a task that has no near-duplicate "
            "may seem a little farther from the others than it is. Images read by a version that did not measure yet "
            "lack the fields. Weights by `errors` are shares of wrong answers on labels held out, drawn towards the "
            "overall share where few tasks have the value. Methods and presets: [strategies](strategies.md)."
        ),
        "",
    ]
    return "\n".join(lines)


def strategies_page() -> str:
    """Return the page of every preset and every built-in method."""
    lines = [
        "# Strategies",
        "",
        MARK,
        "",
        "`ls-backend strategies` prints the same list, with the methods of installed plug-ins.",
        "",
        "## Presets",
        "",
        "A preset fills the objectives. Choose one with the project setting `preset`; `auto` is the default.",
        "",
        *_table(("Preset", "What it does"), ((f"`{name}`", text) for name, text in presets().items())),
        "",
        "Without a model every plan that asks for one falls back to plain coverage of the pool.",
        "",
        "## Several questions",
        "",
        (
            "A single choice is one question. A label that holds or not by itself, of a multiple choice or as a class "
            "of regions, is a yes/no question, and a label config with several controls asks several questions of a "
            "task. Methods judge question by question; the formulas below are those of one. Doubt is the mean over the "
            "questions, and a doubt found elsewhere, such as that of a detector about its boxes, is one more question. "
            "Balance compares the classes of a choice with each other, and all yes/no labels with each other; target "
            "shares are shares among them. A task then counts by what its likely classes are worth beyond those with "
            "most labels, so that a rare label counts as much beside a frequent one as alone. Costs are those inside "
            'a question; a wrong answer about a label costs what is given as `{"crack": {"crack": 5}}`, and 1 '
            "where nothing is. `value` adds up what the likely classes are worth beyond 1."
        ),
        "",
        "## Methods",
        "",
        (
            'A method belongs to an objective: `{"objectives": {"uncertainty": {"method": "entropy"}}}`. In the '
            "costs n is the size of the pool, c the classes, k the picks, m the candidates, r the reference points "
            "and q the dimensions after reduction, at most 64."
        ),
        "",
    ]
    built_in = {module.__name__ for module in BUILT_IN}
    for method in strategies():
        if method.function.__module__ in built_in:
            lines += _method(method)
    return "\n".join(lines)


def pages() -> dict[Path, str]:
    """Return every generated page by its path."""
    return {FOLDER / "settings.md": settings_page(), FOLDER / "strategies.md": strategies_page()}


def _method(method: Strategy) -> list[str]:
    facts = {
        "Formula": f"`{method.formula}`",
        "Needs": ", ".join(f"`{field}`" for field in sorted(method.needs)) or "nothing",
        **({"Uses if there": ", ".join(f"`{field}`" for field in sorted(method.uses))} if method.uses else {}),
        "Use when": method.use_when,
        "Fails when": method.fails_when,
        "Cost": f"`{method.cost}`",
        "Source": method.source,
    }
    about = [f"- {name}: {text}" for name, text in facts.items()]
    return [f"### `{method.objective}`: `{method.name}`", "", method.summary, "", *about, ""]


def _deployment() -> Iterator[tuple[str, ...]]:
    for name, (first, *others) in env_names().items():
        field = Settings.model_fields[name]
        also = "".join(f" (also `{other}`)" for other in others)
        default = COMPUTED.get(name) or _default(field)
        yield f"`{first}`{also}", default, _range(field), field.description or ""


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        yield f"`{name}`", _default(field), _range(field), field.description or ""


def _model(field: FieldInfo) -> type[BaseModel]:
    assert isinstance(field.annotation, type)
    assert issubclass(field.annotation, BaseModel)
    return field.annotation


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    assert value is not PydanticUndefined
    if value is None:
        return "unset"
    if isinstance(value, BaseModel):
        return "as below"
    shown = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{shown}`"


def _range(field: FieldInfo) -> str:
    """Return what values are accepted: limits of numbers, names of choices, else the kind of value."""
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    # A limit may stand on the field or inside an annotated type, such as that of a strength.
    marks = [*field.metadata, *(mark for part in _parts(field.annotation) for mark in getattr(part, "metadata", ()))]
    limits = [
        f"{sign} {getattr(mark, key):.12g}" for key, sign in signs.items() for mark in marks if hasattr(mark, key)
    ]
    kind = _kind(field.annotation)
    return f"{kind}, {', '.join(limits)}" if limits else kind


def _parts(annotation: Any) -> tuple[Any, ...]:  # noqa: ANN401 - any type hint
    return (annotation, *get_args(annotation))


def _kind(annotation: Any) -> str:  # noqa: ANN401 - any type hint
    words = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}
    if annotation in words:
        return words[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return "object"
    if getattr(annotation, "__name__", "") == "SecretStr":
        return "secret"
    if str(origin) == "typing.Literal":
        return ", ".join(f"`{value}`" for value in arguments)
    if hasattr(annotation, "__metadata__"):
        return _kind(arguments[0])
    return " or ".join(_kind(part) for part in arguments if part is not type(None))


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    yield _row(head)
    yield _row(("---",) * len(head))
    for row in rows:
        yield _row(row)


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def main() -> None:
    """Write the pages."""
    for path, text in pages().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
