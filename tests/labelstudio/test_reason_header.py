"""The line that shows the reason, put into label configs as people write them."""

from __future__ import annotations

import pytest
from lxml import etree

from ls_backend.errors import ConfigUnsupported
from ls_backend.labelstudio import label_config
from ls_backend.labelstudio.reason_header import HEADER, shows_reason, with_header, without_header

PLAIN = (
    '<View><Image name="image" value="$image"/><Choices name="label" toName="image">'
    '<Choice value="cat"/><Choice value="dog"/></Choices></View>'
)
CONFIGS = {
    "in one line": PLAIN,
    "indented": PLAIN.replace("><", ">\n    <"),
    "with a declaration": f'<?xml version="1.0"?>\n{PLAIN}',
    "with comments": f"<!-- <View> -->\n{PLAIN}\n<!-- $al_reason -->",
    "with a sign of its own in an attribute": PLAIN.replace("<View>", '<View style="a > b" title=\'"quoted"\'>', 1),
    "with letters beyond ASCII": PLAIN.replace("cat", "Kätzchen 🐈"),
    "windows lines": PLAIN.replace("><", ">\r\n<"),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_header_comes_first_and_goes_without_a_trace(config):
    changed = with_header(config)
    assert not shows_reason(config)
    assert shows_reason(changed)
    first = next(child for child in etree.fromstring(changed.encode()) if isinstance(child.tag, str))
    assert dict(first.attrib) == {"value": "$al_reason", "size": "5"}
    assert first.tag == "Header"
    assert changed.replace(HEADER, "", 1).split() == config.split(), "something else was changed"
    assert with_header(changed) == changed
    assert without_header(changed) == config
    assert label_config.parse(changed) == label_config.parse(config)


def test_what_the_owner_wrote_in_its_place_counts_and_stays():
    own = PLAIN.replace("</View>", '<Text name="why" value="Why: $al_reason"/></View>')
    assert shows_reason(own)
    assert with_header(own) == own
    assert without_header(own) == own


def test_a_header_the_owner_has_moved_and_written_in_full_is_found():
    moved = PLAIN.replace("</View>", "<Header size='3'\n value='$al_reason'></Header></View>")
    assert shows_reason(moved)
    assert without_header(moved) == PLAIN


def test_another_field_with_a_longer_name_is_another_field():
    assert not shows_reason(PLAIN.replace("$image", "$al_reason_of_mine"))


def test_a_config_that_cannot_be_read_is_refused_in_words():
    assert not shows_reason("<View>")
    with pytest.raises(ConfigUnsupported, match="cannot be read"):
        with_header("<View>")
    with pytest.raises(ConfigUnsupported, match="nothing in it"):
        with_header("<View/>")
