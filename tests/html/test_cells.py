from __future__ import annotations

import re

import pytest

from dsr_export.html.cells import bar_cell, name_cell, rich_table, verdict_cell, words
from tests.html.reading import check_document, svg_of


def test_a_table_has_headings_both_ways() -> None:
    made = rich_table(("name", "size"), [[*words("<a>"), bar_cell(0.5, "5 kB")]])
    check_document(made)
    assert re.findall(r'<th scope="(\w+)">(.*?)</th>', made) == [("col", "name"), ("col", "size"), ("row", "&lt;a&gt;")]


@pytest.mark.parametrize(("share", "width"), [(0.5, "50.0%"), (-1.0, "0.0%"), (7.0, "100.0%")])
def test_bars_stay_within_their_cell(share: float, width: str) -> None:
    fills = [node.get("style") for node in svg_of(bar_cell(share, "x")).iter("span") if node.get("class") == "fill"]
    assert fills == [f"width:{width}"]


def test_verdicts_are_words_too() -> None:
    assert ">passed<" in verdict_cell(True) and 'class="good"' in verdict_cell(True)
    assert ">FAILED<" in verdict_cell(False) and 'class="bad"' in verdict_cell(False)


def test_names_break_behind_slashes() -> None:
    assert name_cell("a.b/c<d/e") == "a.b/<wbr/>c&lt;d/<wbr/>e"
    assert name_cell("plain") == "plain"
