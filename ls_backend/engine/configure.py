"""Project settings: checked, saved as revisions, taken back, previewed. Importable without PyTorch: the server saves.

One rule of precedence: what was said last holds, wherever it was said. Whoever changes settings he has looked at says
which revision those were; if somebody else has saved meanwhile, he is told and nothing is overwritten.
"""

from __future__ import annotations

import difflib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from ls_backend import logs
from ls_backend.domain import LabelSchema
from ls_backend.errors import ConfigUnsupported, SettingsConflict, SettingsError
from ls_backend.labelstudio import label_config
from ls_backend.settings import (
    DEFAULT_BACKBONE,
    TORCHVISION_BACKBONES,
    Objectives,
    ProjectSettings,
    Settings,
    check_backbone,
)
from ls_backend.store import Project, Revision, Source, Store
from ls_backend.strategies import Plan, presets, strategies

log = logs.get(__name__)

ANONYMOUS = "anonymous"
"""Who saves where nobody has to say his name."""

PREVIEWS_KEPT = 5
"""Previews of a project; the oldest go first."""

_UNSAID = "unset"
_LONGEST_VALUE = 60  # characters of a value in a message


@dataclass(frozen=True, slots=True)
class Difference:
    """One setting that differs.

    Attributes:
        path: Where it stands, with dots: "objectives.uncertainty.strength".
        before: Earlier value, as JSON text; "unset" when there was none.
        after: Later value, likewise.
    """

    path: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.path} from {_short(self.before)} to {_short(self.after)}"


@dataclass(frozen=True, slots=True)
class Change:
    """A revision and what it changed.

    Attributes:
        differences: To the revision before; none for the first one, and for the oldest that is kept.
    """

    revision: Revision
    differences: tuple[Difference, ...]


def check(settings: Settings, schema: LabelSchema | None, wanted: ProjectSettings) -> None:
    """Refuse methods, classes and backbones that do not exist before a worker stumbles over them.

    Args:
        settings: Says whether weights may be downloaded.
        schema: What the project labels; None while that is not known, and then any class may be named.
        wanted: What is to be checked.

    Raises:
        SettingsError: Names what is wrong, and the nearest known name.
        StrategyUnknown: Likewise, for presets and methods.
    """
    plan = Plan.from_settings(wanted)
    known = None if schema is None else schema.classes
    for name in [] if known is None else sorted(plan.named_classes - set(known)):
        near = difflib.get_close_matches(name, known or (), n=1)
        raise SettingsError(f"{name} is not a label of this project" + (f"; did you mean {near[0]}?" if near else "."))
    check_backbone(wanted.backbone)
    weights, may_download = settings.weights_dir, settings.download_weights
    if wanted.backbone != DEFAULT_BACKBONE and not may_download and not list(weights.glob(f"{wanted.backbone}.*")):
        raise SettingsError(
            f"backbone {wanted.backbone} has no checkpoint in {weights.name}, and LSB_DOWNLOAD_WEIGHTS is false; "
            f"without one there is {DEFAULT_BACKBONE}"
        )


def save(
    store: Store,
    settings: Settings,
    project_id: int,
    wanted: ProjectSettings,
    *,
    source: Source,
    who: str = ANONYMOUS,
    expected: int | None = None,
    schema: LabelSchema | None = None,
) -> Revision:
    """Put settings in force; the labelling queue follows with the next update, which is asked for.

    Settings that are in force already make no revision, and no update.

    Args:
        store: Records.
        settings: Says whether weights may be downloaded.
        project_id: A connected project.
        wanted: All settings; what they leave out gets its default.
        source: Where they were said.
        who: Name of the user.
        expected: Revision they were made from, 0 for none; None overwrites whatever is in force.
        schema: What the project labels now; None reads the label config of the records.

    Returns:
        The revision in force.

    Raises:
        SettingsError: The project is not connected, or something that is named does not exist.
        StrategyUnknown: Likewise, for presets and methods.
        SettingsConflict: Somebody else has saved meanwhile.
    """
    project = store.projects.connected(project_id)
    check(settings, schema or label_schema(project), wanted)
    before = store.revisions.newest(project_id)
    made = store.revisions.add(
        project_id, wanted.model_dump_json(), source=source, who=who or ANONYMOUS, expected=expected
    )
    if made is None:
        raise _conflict(store, project_id, expected or 0)
    if before is None or made.revision != before.revision:
        log.info("settings saved", project=project_id, revision=made.revision, source=source, who=made.who)
    return made


def hear(
    store: Store, settings: Settings, project_id: int, extra_params: object, schema: LabelSchema | None = None
) -> bool:
    """Take what Label Studio says as extra params for settings, if it says something new.

    Label Studio repeats itself at every load of a page; taken at its word, it would undo what was saved elsewhere. What
    is refused was not said: it is refused again at every repetition, until it is mended.

    Args:
        store: Records.
        settings: Says whether weights may be downloaded.
        project_id: A connected project.
        extra_params: As Label Studio sends them: an object, its text, or nothing.
        schema: What the project labels now; None reads the label config of the records.

    Returns:
        Whether that made a revision.

    Raises:
        SettingsError: They are not settings, or something that is named does not exist.
        StrategyUnknown: Likewise, for presets and methods.
    """
    if repeats(store, project_id, extra_params):
        return False
    before = store.revisions.newest(project_id)
    wanted = ProjectSettings.from_extra_params(extra_params)
    made = save(store, settings, project_id, wanted, source="label-studio", schema=schema)
    store.projects.set(project_id, said_params=said(extra_params))
    return before is None or made.revision != before.revision


def repeats(store: Store, project_id: int, extra_params: object) -> bool:
    """Say whether Label Studio says what it said before; a field left empty says nothing until it was filled once."""
    try:
        text = said(extra_params)
    except SettingsError:
        return False
    last = store.projects.connected(project_id).said_params
    if last is None:
        return text == "{}" and store.revisions.newest(project_id) is not None
    return text == last


def undo(
    store: Store,
    settings: Settings,
    project_id: int,
    *,
    to: int | None = None,
    source: Source,
    who: str = ANONYMOUS,
    expected: int | None = None,
) -> Revision:
    """Put the settings of an earlier revision in force again, as a new revision; an undo can be undone.

    Args:
        store: Records.
        settings: Says whether weights may be downloaded.
        project_id: A connected project.
        to: Revision whose settings are wanted; None for the one before the newest.
        source: Where that was said.
        who: Name of the user.
        expected: Revision that was the newest when somebody decided this; None does not ask.

    Raises:
        SettingsError: There is no such revision, or what it names does not exist any more.
        StrategyUnknown: Likewise, for presets and methods.
        SettingsConflict: Somebody else has saved meanwhile.
    """
    store.projects.connected(project_id)
    newest = store.revisions.newest(project_id)
    last = 0 if newest is None else newest.revision
    number = last - 1 if to is None else to
    found = store.revisions.get(project_id, number)
    if found is None:
        wanted = "before the one in force" if to is None else f"number {to}"
        raise SettingsError(
            f"Project {project_id} has no revision {wanted}; the newest is {last}. Nothing was taken back.",
            hint=f"`ls-backend settings history --project {project_id}` lists the revisions.",
        )
    return save(store, settings, project_id, read(found), source=source, who=who, expected=expected)


def history(store: Store, project_id: int, limit: int = 50) -> list[Change]:
    """Return the latest revisions of a project and what each changed, newest first.

    Raises:
        SettingsError: The project is not connected.
    """
    store.projects.connected(project_id)
    found = store.revisions.list(project_id, limit + 1)
    changes = [
        Change(after, () if before is None else differences(_values(before), _values(after)))
        for after, before in zip_longest(found, found[1:])
    ]
    return changes[:limit]


def read(revision: Revision) -> ProjectSettings:
    """Return the settings of a revision.

    Raises:
        SettingsError: A setting of then is none any more.
    """
    return ProjectSettings.from_extra_params(revision.settings_json)


def in_force(store: Store, project_id: int) -> tuple[Revision | None, ProjectSettings]:
    """Return the newest revision of a project, None before the first, and the settings in force.

    Raises:
        SettingsError: The project is not connected.
    """
    project = store.projects.connected(project_id)
    return store.revisions.newest(project_id), ProjectSettings.model_validate_json(project.settings_json or "{}")


def effective(wanted: ProjectSettings) -> dict[str, Any]:
    """Return the objectives that settings come to: those of the preset, and what overrides them."""
    return Plan.from_settings(wanted).objectives.model_dump(mode="json")


def amended(wanted: ProjectSettings, changes: Mapping[str, Any]) -> ProjectSettings:
    """Return settings with some values changed.

    An objective that the settings leave to the preset starts from there: to change the strength alone keeps the
    preset's method.

    Args:
        wanted: What to start from.
        changes: Path with dots -> value, such as "objectives.uncertainty.strength" -> 2.

    Raises:
        SettingsError: A path leads nowhere, or a value is impossible.
        StrategyUnknown: The preset does not exist.
    """
    values = wanted.model_dump(mode="json")
    # The preset first: the objectives that follow start from it.
    for path, value in sorted(changes.items(), key=lambda item: item[0] != "preset"):
        *parents, name = path.split(".")
        if len(parents) == 2 and parents[0] == "objectives" and parents[1] not in values["objectives"]:
            start = effective(ProjectSettings.from_extra_params(values)).get(parents[1])
            if start is not None:
                values["objectives"][parents[1]] = start
        place: Any = values
        for parent in parents:
            place = place.setdefault(parent, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            raise SettingsError(
                f"{path} leads into a setting that has no parts; expected one of those at "
                "`ls-backend settings schema`.",
                hint="Set the whole value instead, as JSON.",
            )
        place[name] = value
    return ProjectSettings.from_extra_params(values)


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Return what differs between two settings, by path.

    Args:
        before: Settings as JSON holds them.
        after: Likewise.
    """
    old, new = _flat(before), _flat(after)
    return tuple(
        Difference(path, old.get(path, _UNSAID), new.get(path, _UNSAID))
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    )


def said(extra_params: object) -> str:
    """Return extra params as text that is the same for all ways to write the same.

    Args:
        extra_params: As Label Studio sends them: an object, its text, or nothing.

    Raises:
        SettingsError: They are not JSON.
    """
    if extra_params is None or extra_params == "":
        return "{}"
    try:
        parsed = json.loads(extra_params) if isinstance(extra_params, str) else extra_params
    except json.JSONDecodeError as error:
        raise SettingsError(f"Extra params are not JSON ({error.msg} at character {error.pos}).") from error
    return json.dumps(parsed, sort_keys=True)


def schema() -> dict[str, Any]:
    """Return the JSON schema of project settings: types, ranges, defaults, help, presets and methods.

    Methods are listed as `oneOf` with a `const` and a `description` each.
    """
    described = ProjectSettings.model_json_schema()
    objectives = Objectives.model_json_schema()
    definitions = described.setdefault("$defs", {})
    definitions |= objectives.pop("$defs")
    properties = described["properties"]
    properties["objectives"] |= {"properties": objectives["properties"], "additionalProperties": False}
    properties["preset"]["oneOf"] = [
        {"const": name, "description": summary} for name, summary in sorted(presets().items())
    ]
    properties["backbone"]["examples"] = [DEFAULT_BACKBONE, *TORCHVISION_BACKBONES]
    for objective, field in Objectives.model_fields.items():
        known = [item for item in strategies() if item.objective == objective]
        definition = definitions.get(getattr(field.annotation, "__name__", ""), {"properties": {}})
        if known and "method" in definition["properties"]:
            definition["properties"]["method"]["oneOf"] = [
                {"const": item.name, "description": item.summary} for item in known
            ]
    return described


def ask_preview(store: Store, settings: Settings, project_id: int, wanted: ProjectSettings) -> str:
    """Note that somebody wants to see what other settings would change; a worker has to be told, see `Queues.preview`.

    Returns:
        Token under which the answer will be found, see `previewed`.

    Raises:
        SettingsError: The project is not connected, or something that is named does not exist.
        StrategyUnknown: Likewise, for presets and methods.
    """
    check(settings, label_schema(store.projects.connected(project_id)), wanted)
    ages = {kind: at for kind, at in store.insights.ages(project_id).items() if kind.startswith(preview_kind(""))}
    for kind in sorted(ages, key=lambda kind: ages[kind], reverse=True)[PREVIEWS_KEPT - 1 :]:
        store.insights.drop(project_id, kind)
    token = secrets.token_hex(8)
    store.insights.put(project_id, preview_kind(token), {"state": "asked", "settings": wanted.model_dump(mode="json")})
    return token


def previewed(store: Store, project_id: int, token: str) -> dict[str, Any]:
    """Return a preview as far as it is: "state" is "asked", "done" or "failed"; see `engine.preview` for the rest.

    Raises:
        SettingsError: There is no such preview, or no more.
    """
    found = store.insights.get(project_id, preview_kind(token))
    if found is None:
        raise SettingsError(
            f"There is no preview {token} of project {project_id}; the last {PREVIEWS_KEPT} are kept.",
            hint="Ask for it again.",
        )
    return found.content


def label_schema(project: Project) -> LabelSchema | None:
    """Return what a project labels, as far as the records know; None while they know nothing that can be learnt."""
    try:
        return label_config.parse(project.label_config or "")
    except ConfigUnsupported:
        return None


def preview_kind(token: str) -> str:
    """Return the kind of insight that a preview is kept as."""
    return f"preview:{token}"


def _conflict(store: Store, project_id: int, expected: int) -> SettingsConflict:
    newest, base = store.revisions.newest(project_id), store.revisions.get(project_id, expected)
    if newest is None:
        return SettingsConflict(
            f"Revision {expected} was expected; project {project_id} has none yet. Nothing was saved."
        )
    changed = () if base is None else differences(_values(base), _values(newest))
    what = f" It changed {'; '.join(map(str, changed))}." if changed else ""
    return SettingsConflict(
        f"{newest.who} ({newest.source}) has saved revision {newest.revision} at {newest.at:%Y-%m-%d %H:%M:%S} UTC; "
        f"these settings were made from revision {expected} and were not saved.{what}",
        project_id=project_id,
        newest=newest.revision,
    )


def _values(revision: Revision) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(revision.settings_json)
    return values


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in values.items():
        path = f"{above}{name}"
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{path}.")
        elif value != {}:
            flat[path] = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return flat


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."
