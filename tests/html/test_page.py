from __future__ import annotations

import html

import pytest

from dsr_export.html.markup import text
from dsr_export.html.page import Section, Verdict, figure, page, row, table
from tests.html.reading import check_document

VERDICT = Verdict(tone="warn", headline="4 <outliers>", details=("so & so",), command="dsr-export build 'a b'")


def made() -> str:
    body = row(figure(text("chart"), title="T<", caption="C"), figure(table(["a", "b"], [["1", "<2>"]])))
    return page("Title <x>", VERDICT, [("images", "8")], [Section("Where", "explained", body)], "By hand.")


def test_a_page_stands_alone() -> None:
    assert {"main", "table", "figure", "style", "footer"} <= check_document(made())
    assert "default-src 'none'" in html.unescape(made())


def test_everything_said_is_in_it_escaped() -> None:
    for words in (
        "Title &lt;x&gt;",
        "4 &lt;outliers&gt;",
        "so &amp; so",
        "dsr-export build 'a b'",
        "&lt;2&gt;",
        "By hand.",
    ):
        assert words in made()
    assert "<outliers>" not in made()


def test_it_follows_light_dark_and_narrow_screens() -> None:
    for rule in ("prefers-color-scheme: dark", "color-scheme: light dark", 'name="viewport"', "max-width: 560px"):
        assert rule in made()


@pytest.mark.parametrize(
    "loads", ['<img src="https://x/y.png"/>', "<p style=\"background:url('//x')\">", "<script></script>"]
)
def test_the_check_finds_what_does_not_stand_alone(loads: str) -> None:
    with pytest.raises(AssertionError):
        check_document(f"<main>{loads}</main>")


def test_without_a_command_there_is_none() -> None:
    bare = page("T", Verdict(tone="good", headline="Fine."), [], [], "")
    assert "<pre>" not in bare
    assert "Next:" not in bare
