"""Run-time sizes, worked out by a plan's own program."""

from __future__ import annotations

import pytest

from dsr_export.engine_schedule.plan_text import Program, UnreadableSchedule
from dsr_export.engine_schedule.sizes import run_time_sizes
from tests.engine_schedule.tiny_plan import shape


def _sizes(batch: int, *statements: str) -> dict[str, int]:
    lines = "".join([shape("copy", "n", "some_shapeInput.1"), *statements]).split("\n")
    return run_time_sizes(Program(5, {"shape_main": tuple(line for line in lines if line)}), batch)


def _constant(name: str, value: int) -> str:
    return f'  memset={{ name="c" output={{"{name}" }}  src="{value}i64" stream=0 }}\n'


@pytest.mark.parametrize(
    ("kind", "batch", "value"),
    [
        ("mul", 3, 12),
        ("add", 3, 7),
        ("sub", 6, 2),
        ("div", 8, 2),
        ("div", 7, 1),
        ("min", 6, 4),
        ("max", 6, 6),
        ("gt", 6, 1),
        ("eq", 6, 0),
    ],
)
def test_arithmetic(kind: str, batch: int, value: int) -> None:
    assert _sizes(batch, _constant("four", 4), shape(kind, "made", "n", "four"))["made"] == value


def test_what_is_divided_by_nothing_or_below_nothing_has_no_size() -> None:
    minus, none = _constant("minus", -4), _constant("none", 0)
    found = _sizes(2, minus, none, shape("div", "a", "minus", "n"), shape("div", "b", "n", "none"))
    assert not {"a", "b"} & set(found)


@pytest.mark.parametrize("batch", [1, 2, 9])
def test_the_larger_of_two_is_a_choice(batch: int) -> None:
    chosen = [shape("gt", "more", "n", "four"), shape("select", "larger", "more", "n", "four")]
    assert _sizes(batch, _constant("four", 4), *chosen)["larger"] == max(batch, 4)


def test_what_rests_on_something_unknown_is_left_out() -> None:
    found = _sizes(2, shape("sqrt", "s", "n"), shape("mul", "made", "s", "n"), shape("copy", "twice", "made"))
    assert found == {"n": 2}


def test_two_values_of_one_name_are_refused() -> None:
    with pytest.raises(UnreadableSchedule, match="two values"):
        _sizes(2, _constant("n", 5))


def test_a_plan_without_run_time_sizes_has_none() -> None:
    assert run_time_sizes(Program(5, {}), 2) == {}
