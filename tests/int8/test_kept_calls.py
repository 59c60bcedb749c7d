"""The calls that a budget is checked with: the same, whoever saw which sections first."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from calibration.collect import Call
from dsr_export.int8.budget import Checks
from dsr_export.int8.kept_calls import KeptCalls

STEPS = 5


def _seen(sections: tuple[int, ...]) -> KeptCalls:
    """Sections of five steps from noise to data, all alike but for their values."""
    kept = KeptCalls()
    for section in sections:
        for step in range(STEPS):
            value = np.full((6, 2), 10.0 * section + step, np.float32)
            call = Call({"x": value}, np.arange(6), np.full(6, step / (STEPS - 1)), section)
            kept.offer(call, {"out": -value})
    return kept


def test_any_order_keeps_the_same(tmp_path: Path) -> None:
    whole = _seen((0, 1, 2))
    whole.save(tmp_path / "whole.npz")
    cases = Checks.load(tmp_path / "whole.npz").cases
    assert [float(fed["x"][0, 0]) for fed, _ in cases] == [0, 2, 4]  # of the first section, evenly spaced
    assert all((made["out"] == -fed["x"]).all() and len(fed["x"]) == 4 for fed, made in cases)
    for order in permutations(range(3)):
        joined = KeptCalls()
        for section in order:
            joined.merge(_seen((section,)).arrays())
        joined.save(tmp_path / "joined.npz")
        assert (tmp_path / "joined.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_a_call_is_kept_once_where_there_are_few(tmp_path: Path) -> None:
    kept = KeptCalls()
    kept.offer(Call({"x": np.ones((1, 2))}, np.arange(1), np.zeros(1)), {"out": np.ones((1, 2))})
    kept.save(tmp_path / "c.npz")
    assert len(Checks.load(tmp_path / "c.npz").cases) == 1
    (inputs,) = kept.inputs
    assert list(inputs) == ["x"] and (inputs["x"] == 1).all()


def test_data_without_times_keeps_calls_from_all_over_it() -> None:
    kept = KeptCalls()
    for i in range(9):
        x = np.full((2, 3), i, np.float32)
        kept.offer(Call({"x": x}, np.arange(2), np.zeros(2), place=i / 8), {"out": x})
    assert [inputs["x"][0, 0] for inputs in kept.inputs] == [0, 4, 8]


@pytest.mark.parametrize(("rows", "wanted"), [(4, 4), (8, 8)])
def test_a_model_of_fixed_batch_has_all_rows_kept(rows: int, wanted: int) -> None:
    kept = KeptCalls(rows=rows)
    x = np.arange(8, dtype=np.float32)[:, None]
    kept.offer(Call({"x": x}, np.arange(8), np.zeros(8)), {"out": x})
    (inputs,) = kept.inputs
    assert len(inputs["x"]) == wanted
