from __future__ import annotations

import html

from hypothesis import given
from hypothesis import strategies as st

from dsr_export.html.markup import element, joined, text
from tests.html.reading import svg_of

printable = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_categories=["Cs", "Cc"]))


@given(printable, printable)
def test_nothing_escapes_from_text_and_attributes(content: str, value: str) -> None:
    made = svg_of(element("g", text(content), class_=value))
    assert (made.text or "") == content
    assert made.attrib == {"class": value}
    assert len(made) == 0


def test_names_and_values_of_attributes() -> None:
    assert element("rect", x=1.0, y=2.345, fill_opacity=0.5, id=None) == '<rect x="1" y="2.35" fill-opacity="0.5"/>'
    assert element("text", x=100.0) == '<text x="100"></text>'


def test_children_are_kept_as_they_are() -> None:
    inner = element("b", text("<i>"))
    assert element("p", inner, joined([inner, inner])) == "<p>" + "<b>&lt;i&gt;</b>" * 3 + "</p>"
    assert html.unescape("&lt;i&gt;") == "<i>"
