from __future__ import annotations

import math
from itertools import pairwise

from dsr_export.html.charts import Series
from dsr_export.html.curves import LETTER, WIDTH, Level, curves
from tests.html.reading import svg_of


def drawn(values: list[float], **options: object) -> object:
    names = [f"layer {i}" for i in range(len(values))]
    series = Series("SNR", "b", range(len(values)), values)
    return svg_of(curves([series], names, x_label="layer", y_label="dB", **options))  # type: ignore[arg-type]


def heights(tree) -> list[float]:
    return [float(dot.get("cy")) for dot in tree.iter("circle")]


def test_points_stand_by_their_values_and_say_them() -> None:
    tree = drawn([0.0, 20.0, 10.0])
    low, high, middle = heights(tree)
    assert math.isclose(middle, (low + high) / 2, abs_tol=0.1) and high < low
    assert [tip.text for tip in tree.iter("title")] == ["layer 0, SNR: 0", "layer 1, SNR: 20", "layer 2, SNR: 10"]
    assert "SNR from 0 to 20" in (tree.get("aria-label") or "")


def test_a_level_is_within_the_axis_and_its_word_away_from_the_curve() -> None:
    tree = drawn([60.0, 41.0], levels=[Level(40.0, "needed")])
    (line,) = (node for node in tree.iter("line") if node.get("class") == "mark")
    assert heights(tree)[1] < float(line.get("y1")) < 240 - 42
    (word,) = (node for node in tree.iter("text") if node.text == "needed")
    assert word.get("text-anchor") == "start"  # the curve comes close at its end
    (word,) = (n for n in drawn([41.0, 60.0], levels=[Level(40.0, "needed")]).iter("text") if n.text == "needed")
    assert word.get("text-anchor") == "end"


def test_what_has_no_place_leaves_a_gap() -> None:
    tree = drawn([1.0, 2.0, math.nan, 3.0, 4.0])
    assert len(list(tree.iter("polyline"))) == 2
    assert len(heights(tree)) == 4
    logarithmic = drawn([10.0, 100.0, 0.0, 1000.0, 10000.0], kind="log")
    ys = heights(logarithmic)
    assert math.isclose(ys[0] - ys[1], ys[2] - ys[3], abs_tol=0.1)
    assert len(list(logarithmic.iter("polyline"))) == 2


def test_bounds_hold_values_at_the_edge() -> None:
    ys = heights(drawn([-300.0, 0.0, 50.0, 300.0], low=0.0, high=50.0))
    assert ys[0] == ys[1] > ys[2] > ys[3]


def test_long_names_do_not_overlap() -> None:
    tree = drawn([float(i) for i in range(50)])
    shown = [node for node in tree.iter("text") if (node.text or "").startswith("layer ")]
    places = [float(node.get("x")) for node in shown]
    assert len(shown) >= 3
    assert min(b - a for a, b in pairwise(places)) > 8 * len("layer 10")


def test_no_name_is_cut_off_at_the_edge() -> None:
    names = [f"blocks.{i}.adaLN_modulation.linear_of_{i}" for i in range(40)]
    series = Series("one", "a", range(40), [1.0] * 40)
    tree = svg_of(curves([series], names, x_label="GEMM", y_label="dB"))
    shown = [(float(node.get("x")), node.text) for node in tree.iter("text") if (node.text or "") in names]
    assert shown[0][1] == names[0]
    assert all(LETTER * len(name) / 2 <= x <= WIDTH - LETTER * len(name) / 2 for x, name in shown)
