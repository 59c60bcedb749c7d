from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsr_export.html.axes import Axis, bare_percent, every, label, percent, spans


@given(st.floats(1e-3, 1e3), st.floats(1.01, 1e6), st.sampled_from(["linear", "log"]))
def test_ticks_lie_within_and_ascend(low: float, factor: float, kind: str) -> None:
    axis = Axis(low, low * factor, 0, 100, kind)  # type: ignore[arg-type]
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 16
    assert ticks == sorted(set(ticks))
    assert all(low * 0.99 <= tick <= low * factor * 1.01 for tick in ticks)
    places = [axis.place(tick) for tick in ticks]
    assert places == sorted(places)
    assert all(0 <= place <= 100 for place in places)


def test_places() -> None:
    assert [Axis(0, 10, 100, 0).place(v) for v in (0, 5, 10, 99)] == [100, 50, 0, 0]
    assert Axis(1, 100, 0, 10, "log").place(10) == pytest.approx(5)
    assert Axis(3, 3, 7, 9).place(3) == 7


@pytest.mark.parametrize(
    ("share", "words"), [(0, "0 %"), (1, "100 %"), (0.0625, "6.2 %"), (0.00083, "0.083 %"), (0.0999, "10 %")]
)
def test_percentages(share: float, words: str) -> None:
    assert percent(share) == words
    assert bare_percent(share) + " %" == words


def test_labels_and_spans() -> None:
    assert [label(v) for v in (0.1, 20.0, 1000.0, 2.5e6)] == ["0.1", "20", "1k", "2.5M"]
    assert spans([0, 1, 2, 5, 7, 8]) == "0\N{EN DASH}2, 5, 7\N{EN DASH}8"
    assert spans([]) == ""


@given(st.integers(1, 3000), st.integers(1, 40))
def test_no_more_labels_than_fit(count: int, most: int) -> None:
    assert len(range(0, count, every(count, most))) <= most
