"""Ladders of formats: the worst GEMMs go up, rung by rung, and no further than the budget asks for."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsr_export.int8.ladders import MARGIN_DB, Formats, Ladder, Verdict, within_budget
from dsr_export.parity.decibels import IDENTICAL_DB

FORMATS = ("fp8", "int8")
LADDERS = st.dictionaries(
    st.sampled_from("abcdefgh"),
    st.builds(lambda first, more: (first, (30.0, 30.0 + more)), st.floats(1e-6, 1e-1), st.floats(-12, 25)),
    min_size=1,
)
"""GEMM -> its noise at the output in FP8, and the SNR of its own output in both formats."""
BUDGETS = st.floats(0, 70)


def _ladders(drawn: Mapping[str, tuple[float, tuple[float, float]]]) -> dict[str, Ladder]:
    return {name: Ladder(formats=FORMATS, local_db=local) for name, (_, local) in drawn.items()}


def _noise(drawn: Mapping[str, tuple[float, tuple[float, float]]], formats: Formats) -> float:
    """Errors add up, and a format that is worse at a GEMM's own output is so at the model's."""
    return float(sum(drawn[name][0] * 10 ** (-_better_db(drawn[name][1], form) / 10) for name, form in formats.items()))


def _better_db(local: tuple[float, float], form: str) -> float:
    return local[FORMATS.index(form)] - local[0]


def _db(noise: float) -> float:
    return float(-10 * np.log10(noise)) if noise else IDENTICAL_DB


def _verdict(
    drawn: Mapping[str, tuple[float, tuple[float, float]]], budget: float, *, factor: float = 1.0
) -> tuple[Verdict, list[Formats]]:
    seen: list[Formats] = []

    def measure(formats: Formats) -> float:
        seen.append(dict(formats))
        return _db(factor * _noise(drawn, formats))

    made = within_budget(
        _ladders(drawn),
        measure,
        budget,
        alone=lambda name: _db(drawn[name][0]),
        rank=None,
        bar=lambda done, total: None,
    )
    return made, seen


def test_the_worst_take_the_next_format_before_any_stays_floats() -> None:
    drawn = {"a": (1e-2, (30.0, 40.0)), "b": (1e-3, (30.0, 40.0)), "c": (1e-4, (30.0, 40.0))}
    assert _verdict(drawn, 15)[0].formats == {"a": "fp8", "b": "fp8", "c": "fp8"}
    assert _verdict(drawn, 25)[0].formats == {"a": "int8", "b": "fp8", "c": "fp8"}
    assert _verdict(drawn, 28)[0].formats == {"a": "int8", "b": "int8", "c": "fp8"}
    found = _verdict(drawn, 34)[0]
    assert (found.formats, found.kept) == ({"b": "int8", "c": "int8"}, ("a",))
    found = _verdict(drawn, 100)[0]
    assert (found.formats, found.kept, found.snr_db) == ({}, ("a", "b", "c"), IDENTICAL_DB)


def test_a_format_that_is_no_better_is_left_out() -> None:
    """As INT8 is where tokens differ much: what FP8 costs too much for stays FP16 then, after others took INT8."""
    drawn = {"worse": (1e-2, (30.0, 26.0)), "better": (9e-3, (30.0, 45.0))}
    found, seen = _verdict(drawn, 21)
    assert (found.formats, found.kept) == ({"better": "int8"}, ("worse",))
    assert "int8" not in {formats.get("worse") for formats in seen}
    assert _verdict(drawn, 18)[0].formats == {"worse": "fp8", "better": "int8"}


@given(drawn=LADDERS, budget=BUDGETS)
def test_the_budget_holds_with_no_needless_step(
    drawn: dict[str, tuple[float, tuple[float, float]]], budget: float
) -> None:
    found, seen = _verdict(drawn, budget)
    assert found.snr_db >= budget + MARGIN_DB and found.snr_db == _db(_noise(drawn, found.formats))
    assert seen[0] == dict.fromkeys(drawn, "fp8") and len(seen) <= 3  # errors add up here, and are foreseen
    assert set(found.kept) == drawn.keys() - found.formats.keys()
    last = _last_step(drawn, found)
    if last is not None:
        name, before = last
        without = {**found.formats, name: before}
        assert _db(_noise(drawn, without)) < budget + MARGIN_DB + 1e-6


def _last_step(drawn: Mapping[str, tuple[float, tuple[float, float]]], found: Verdict) -> tuple[str, str] | None:
    """What went up last, and from where: steps to floats come after those to INT8, the noisiest GEMM first in each."""
    least_first = sorted(drawn, key=lambda name: -drawn[name][0])[::-1]  # of equals the last: it goes up after them
    better = {name: local[1] > local[0] for name, (_, local) in drawn.items()}
    for form, names in ((None, found.kept), ("int8", found.formats)):
        for name in least_first:
            if name in names and found.formats.get(name) == form:
                return name, "int8" if form is None and better[name] else "fp8"
    return None


@given(drawn=LADDERS, budget=BUDGETS, factor=st.floats(0.2, 20))
def test_the_order_holds_whatever_the_errors_add_up_to(
    drawn: dict[str, tuple[float, tuple[float, float]]], budget: float, factor: float
) -> None:
    found, seen = _verdict(drawn, budget, factor=factor)
    assert found.snr_db >= budget + MARGIN_DB or not found.formats
    ranks = {"fp8": 0, "int8": 1, None: 2}
    for earlier, later in pairwise(seen):
        assert all(ranks[earlier.get(name)] <= ranks[later.get(name)] for name in drawn)
        assert earlier != later
    noises = [drawn[name][0] for name in found.kept]
    assert noises == pytest.approx(sorted(noises, reverse=True), rel=1e-9)
    if found.kept:  # whoever gains by INT8 had its step first
        assert all(
            found.formats[name] == "int8" or local[1] <= local[0]
            for name, (_, local) in drawn.items()
            if name in found.formats
        )


@pytest.mark.parametrize("local", [(30.0,), (30.0, 40.0), (30.0, 35.0, 32.0), (30.0, 20.0, 50.0)])
def test_a_ladder_of_any_length_ends_in_floats(local: tuple[float, ...]) -> None:
    names = ("w", "x", "y")[: len(local)]
    ladders = {"a": Ladder(formats=names, local_db=local), "b": Ladder(formats=names, local_db=local)}
    seen: list[Formats] = []

    def never(formats: Formats) -> float:
        seen.append(dict(formats))
        return 0.0

    found = within_budget(ladders, never, 90, alone=lambda name: 30.0, rank=None, bar=lambda done, total: None)
    assert (found.formats, found.kept, found.snr_db) == ({}, ("a", "b"), IDENTICAL_DB)
    assert seen[0] == {"a": "w", "b": "w"} and {} not in seen
