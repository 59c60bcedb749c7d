"""The budget: as few GEMMs in FP16 as it asks for, the worst ones; and an honest answer where nothing helps."""

from __future__ import annotations

import numpy as np
import pytest

from dsr_export.int8.budget import IDENTICAL_DB, _worst_db
from dsr_export.int8.ladders import MARGIN_DB, Formats, Ladder, Verdict, within_budget

NOISE = {"a": 1e-5, "b": 4e-3, "c": 1e-4, "d": 1e-2, "e": 2e-4}
LADDERS = {name: Ladder(formats=("int8",), local_db=(40.0,), bytes=(1, 2)) for name in NOISE}


def _db(noise: float) -> float:
    return float(-10 * np.log10(noise)) if noise else IDENTICAL_DB


def _verdict(budget: float, *, factor: float = 1.0, rank: dict[str, float] | None = None) -> tuple[Verdict, int]:
    """`factor`: how much worse the whole is than the sum of its parts."""
    calls = 0

    def measure(names: Formats) -> float:
        nonlocal calls
        calls += 1
        return _db(factor * sum(NOISE[name] for name in names))

    alone = (lambda name: _db(NOISE[name])) if rank is None else pytest.fail
    return within_budget(LADDERS, measure, budget, alone=alone, rank=rank, bar=lambda done, total: None), calls


@pytest.mark.parametrize(
    ("budget", "kept"),
    [(10, ()), (20, ("d",)), (30, ("d", "b")), (36, ("d", "b", "e")), (200, ("d", "b", "e", "c", "a"))],
)
def test_the_worst_stay_and_no_more_of_them(budget: float, kept: tuple[str, ...]) -> None:
    verdict, _ = _verdict(budget)
    assert verdict.kept == kept
    assert verdict.snr_db >= budget + MARGIN_DB
    assert verdict.sensitivity_db["d"] == pytest.approx(20)


def test_what_is_measured_decides_and_not_what_was_predicted() -> None:
    verdict, calls = _verdict(26, factor=3.0)
    assert verdict.snr_db >= 26 + MARGIN_DB
    assert verdict.kept[:2] == ("d", "b")
    assert calls < 1 + len(NOISE)


def test_a_given_rank_is_used_unmeasured() -> None:
    verdict, _ = _verdict(20, rank={"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0, "e": 5.0})
    assert verdict.kept[0] == "a"


def test_nan_of_the_model_is_no_error_and_nan_of_ours_is_the_worst() -> None:
    truth = np.array([[1.0, np.nan], [2.0, 3.0]])
    assert _worst_db({"out": truth}, {"out": truth.copy()}) == IDENTICAL_DB
    assert _worst_db({"out": truth}, {"out": truth * 1.1}) == pytest.approx(20)
    assert _worst_db({"out": truth}, {"out": np.nan_to_num(truth)}) == -IDENTICAL_DB
    assert _worst_db({"out": np.full((2, 2), np.nan)}, {"out": np.full((2, 2), np.nan)}) == IDENTICAL_DB
    assert _worst_db({"out": np.nan_to_num(truth)}, {"out": truth}) == -IDENTICAL_DB
