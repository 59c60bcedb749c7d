from __future__ import annotations

import numpy as np

from dsr_export.html.charts import Mark, Series, bars, heat_map, histogram, legend, lines
from tests.html.reading import svg_of


def words(markup: str) -> list[str]:
    return [node.text or "" for node in svg_of(markup).iter("text")]


def test_a_heat_map_fills_what_is_not_zero_and_says_how_much() -> None:
    made = heat_map(
        np.array([[0, 0.5], [0.1, 0]]),
        rows=["0", "1"],
        columns=["1.0", "0.5"],
        x_label="time",
        y_label="block",
        highest=0.5,
    )
    tree = svg_of(made)
    heat = [node for node in tree.iter("rect") if node.get("class") == "heat"]
    assert [node.get("fill-opacity") for node in heat] == ["0.9", "0.3"]
    assert [node.get("class") for node in tree.iter("rect")].count("cell") == 4
    assert {"50", "10", "time", "block", "1.0", "0.5"} <= set(words(made))


def test_a_heat_map_of_zeros_is_empty() -> None:
    made = heat_map(np.zeros((1, 1)), rows=["a"], columns=["b"], x_label="", y_label="", highest=0.0)
    assert not [node for node in svg_of(made).iter("rect") if node.get("class") == "heat"]


def test_a_histogram_leaves_its_gaps_open() -> None:
    series = [
        Series("before", "a", [1, 2, 4, 8, 16], [5, 0, 0, 3]),
        Series("after", "b", [1, 2, 4, 8, 16], [8, 0, 0, 0]),
    ]
    made = histogram(series, x_label="norm", y_label="tokens", marks=[Mark(3.0, "threshold 3")])
    outlines = [node for node in svg_of(made).iter("polyline") if "line" in (node.get("class") or "")]
    assert [node.get("class") for node in outlines] == ["line a", "line a", "line b"]  # two runs, one run
    assert "threshold 3" in words(made)
    first, second = (node.get("points") or "" for node in outlines[:2])
    assert float(first.split()[-1].split(",")[0]) < float(second.split(",")[0])


def test_lines_start_at_zero_and_end_at_the_largest() -> None:
    made = lines([Series("s", "a", [0, 1, 2], [0.0, 5.0, 10.0])], x_label="block", y_label="attention")
    points = (next(svg_of(made).iter("polyline")).get("points") or "").split()
    heights = [float(point.split(",")[1]) for point in points]
    assert heights == sorted(heights, reverse=True)
    assert np.isclose(heights[0] - heights[1], heights[1] - heights[2], atol=0.2)
    assert {"0", "block", "attention"} <= set(words(made))


def test_bars_name_their_values() -> None:
    made = bars([0.0, 3.0], ["layer 0", "layer 1"], x_label="layer", y_label="neurons")
    tips = [node.text for node in svg_of(made).iter("title")]
    assert tips == ["layer 0: 0", "layer 1: 3"]
    heights = [float(node.get("height") or "nan") for node in svg_of(made).iter("rect")]
    assert heights[0] == 0 < heights[1]
    assert "0.5" not in words(made)  # counts have whole ticks


def test_long_names_of_bars_are_thinned() -> None:
    names = [f"blocks.{i}.attn.qkv" for i in range(40)]
    shown = set(words(bars([1.0] * 40, names, x_label="GEMM", y_label="%"))) & set(names)
    assert 1 <= len(shown) <= 3


def test_names_from_outside_are_escaped() -> None:
    made = legend([Series("<b>&", "a", (), ())])
    assert "<b>" not in made
    assert "&lt;b&gt;&amp;" in made


def test_what_is_no_finite_number_has_no_bar() -> None:
    made = bars([1.0, float("nan"), 3.0, float("inf")], list("abcd"), x_label="GEMM", y_label="%")
    tops = [node for node in svg_of(made).iter("rect") if node.get("class") == "bar"]
    assert len(tops) == 2 and "nan" not in made and "inf" not in made
    assert set("abcd") <= set(words(made))
