"""The line of the labelling interface that shows why a task is next.

Label Studio shows a field of the task data where the label config asks for it. Tasks without the field show nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.parsers import expat

from ls_backend.errors import ConfigUnsupported

FIELD = "al_reason"
"""Field of the task data that holds the reason. It is ours: what else stands there is overwritten and removed."""

HEADER = f'<Header value="${FIELD}" size="5"/>'

_TAG = rb"""<[^\s<>/]+(?:[^<>"']|"[^"]*"|'[^']*')*>"""
_ASKED_FOR = re.compile(rf"\${FIELD}(?!\w)")


@dataclass(frozen=True, slots=True)
class _Tag:
    """A start tag in the text.

    Attributes:
        start: Byte of its "<".
        end: Byte behind its ">".
    """

    name: str
    values: tuple[str, ...]
    start: int
    end: int


def shows_reason(label_config: str) -> bool:
    """Whether any tag of a label config shows the reason; one that cannot be read shows nothing."""
    try:
        tags = _tags(label_config.encode())
    except ConfigUnsupported:
        return False
    return any(_ASKED_FOR.search(value) for tag in tags for value in tag.values)


def with_header(label_config: str) -> str:
    """Return a label config with the line on top of it; everything else stays as it is written.

    Raises:
        ConfigUnsupported: It cannot be read.
    """
    if shows_reason(label_config):
        return label_config
    text = label_config.encode()
    root = _tags(text)[0]
    if text[root.start : root.end].endswith(b"/>"):
        raise ConfigUnsupported("The label config has nothing in it, so there is no place for the reason.")
    behind = text[root.end :]
    indent = re.match(rb"\s*", behind)
    assert indent is not None  # anything begins with no space at least
    return (text[: root.end] + indent[0] + HEADER.encode() + behind).decode()


def without_header(label_config: str) -> str:
    """Return a label config without headers that show the reason; everything else stays as it is written.

    Raises:
        ConfigUnsupported: It cannot be read.
    """
    text = label_config.encode()
    for tag in reversed(_tags(text)):
        if tag.name != "Header" or f"${FIELD}" not in tag.values:
            continue
        end = tag.end
        if not text[tag.start : end].endswith(b"/>"):
            end = text.index(b">", text.index(b"</Header", end)) + 1
        text = text[: tag.start].rstrip() + text[end:]
    return text.decode()


def _tags(text: bytes) -> list[_Tag]:
    """Find the start tags, the root first."""
    found: list[_Tag] = []
    parser = expat.ParserCreate()

    def begin(name: str, attributes: dict[str, str]) -> None:
        start = parser.CurrentByteIndex
        tag = re.compile(_TAG).match(text, start)
        found.append(_Tag(name, tuple(attributes.values()), start, start if tag is None else tag.end()))

    parser.StartElementHandler = begin
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise ConfigUnsupported(
            f"The label config cannot be read: {error}.", hint="Correct the XML of the labelling interface."
        ) from error
    return found
