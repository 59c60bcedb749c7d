"""Stacked bars: every part has its width and its words."""

from __future__ import annotations

import pytest

from dsr_export.html.stacks import STYLES, stack_cell, stack_legend


def test_parts_share_the_bar_by_their_size() -> None:
    cell = stack_cell([(3.0, "three <&>"), (1.0, "one"), (0.0, "none"), (0.0, "none")], 0.5)
    assert "width:50.0%" in cell
    assert 'style="width:75.00%" title="three &lt;&amp;&gt;"' in cell and 'style="width:25.00%" title="one"' in cell
    assert "none" not in cell


@pytest.mark.parametrize(("share", "width"), [(-1.0, "0.0%"), (2.0, "100.0%")])
def test_a_bar_stays_within_its_cell(share: float, width: str) -> None:
    assert f'class="stack" style="width:{width}"' in stack_cell([(1.0, "a")] * 4, share)


def test_no_part_at_all_is_an_empty_bar() -> None:
    assert "part" not in stack_cell([(0.0, "a")] * 4, 0.0)


def test_the_legend_has_every_style() -> None:
    legend = stack_legend(["a", "b", "c", "<d>"])
    assert all(style in legend for style in STYLES) and "&lt;d&gt;" in legend
