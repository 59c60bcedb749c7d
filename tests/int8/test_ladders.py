"""Ladders of formats: GEMMs go up where a byte takes most noise away, and no further than the budget asks for."""

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
    return {name: Ladder(formats=FORMATS, local_db=local, bytes=(1, 1, 2)) for name, (_, local) in drawn.items()}


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
    """What went up last, and from where: INT8 costs no byte more than FP8, and comes before any floats."""
    better = {name: local[1] > local[0] for name, (_, local) in drawn.items()}
    if found.kept:
        return found.kept[-1], "int8" if better[found.kept[-1]] else "fp8"
    risen = [name for name in drawn if found.formats[name] == "int8"]
    return (min(risen, key=lambda name: drawn[name][0] - _left(drawn[name])), "fp8") if risen else None


def _left(drawn: tuple[float, tuple[float, float]]) -> float:
    """A GEMM's noise in the better of both formats."""
    return drawn[0] * 10 ** (-max(0.0, drawn[1][1] - drawn[1][0]) / 10)


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
    noises = [_left(drawn[name]) for name in found.kept]  # all of one size
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
    ladders = {name: Ladder(formats=names, local_db=local, bytes=(*map(len, names), 2)) for name in "ab"}
    seen: list[Formats] = []

    def never(formats: Formats) -> float:
        seen.append(dict(formats))
        return 0.0

    found = within_budget(ladders, never, 90, alone=lambda name: 30.0, rank=None, bar=lambda done, total: None)
    assert (found.formats, found.kept, found.snr_db) == ({}, ("a", "b"), IDENTICAL_DB)
    assert seen[0] == {"a": "w", "b": "w"} and {} not in seen


def _sized(formats: tuple[str, ...], local: tuple[float, ...], sizes: tuple[int, ...]) -> Ladder:
    return Ladder(formats=formats, local_db=local, bytes=sizes)


def _orders(ladders: Mapping[str, Ladder], alone: Mapping[str, float]) -> list[Formats]:
    """What is measured where each step is too little, one after the other."""
    seen: list[Formats] = []

    def measure(formats: Formats) -> float:
        seen.append(dict(formats))
        return 89.9  # all but there: one step more is asked for each time

    within_budget(ladders, measure, 89, alone=lambda name: alone[name], rank=None, bar=lambda done, total: None)
    return seen


def test_the_noise_that_a_byte_takes_away_decides_and_not_the_noise() -> None:
    """`large` has twice the noise, and costs eight times the bytes."""
    ladders = {
        "large": _sized(("int8",), (40.0,), (800, 1600)),
        "small": _sized(("int8",), (40.0,), (100, 200)),
    }
    assert _orders(ladders, {"large": 30.0, "small": 33.0})[1] == {"large": "int8"}
    assert _orders(ladders, {"large": 30.0, "small": 42.0})[1] == {"small": "int8"}


def test_of_formats_of_one_size_the_better_is_taken_at_once() -> None:
    ladders = {
        "a": _sized(("nvfp4", "fp8", "int8"), (20.0, 31.0, 40.0), (9, 16, 16, 32)),
        "b": _sized(("nvfp4", "fp8", "int8"), (20.0, 31.0, 25.0), (9, 16, 16, 32)),
    }
    seen = _orders(ladders, {"a": 30.0, "b": 31.0})
    assert seen[1:3] == [{"a": "int8", "b": "nvfp4"}, {"a": "int8", "b": "fp8"}]
    assert {"b": "fp8"} in seen[3:] or {"a": "int8"} in seen[3:]


def test_a_format_that_saves_bytes_and_noise_comes_first() -> None:
    """NVFP4 with a branch may be larger than INT8."""
    ladders = {
        "a": _sized(("nvfp4", "int8"), (20.0, 40.0), (9, 16, 32)),
        "b": _sized(("nvfp4", "int8"), (20.0, 40.0), (17, 16, 32)),
    }
    assert _orders(ladders, {"a": 10.0, "b": 15.0})[1] == {"a": "nvfp4", "b": "int8"}


def test_floats_are_left_to_a_gemm_that_is_exact_by_itself() -> None:
    """As a table may say of its first format: the output decides."""
    exact = {"a": _sized(("int8",), (float("inf"),), (1, 2))}
    found = within_budget(
        exact, lambda formats: 0.0, 50, alone=lambda name: 10.0, rank=None, bar=lambda done, total: None
    )
    assert (found.formats, found.kept) == ({}, ("a",))


def _spared(passes: Mapping[str, tuple[bool, bool]], beyond_db: float, budget: float = 0.0) -> Verdict:
    """Of GEMMs of equal noise, 16 dB of which INT8 takes away for no byte."""
    ladders = {
        name: Ladder(formats=FORMATS, local_db=(30.0, 46.0), bytes=(1, 1, 2), passes=each)
        for name, each in passes.items()
    }
    drawn = dict.fromkeys(ladders, (1e-3, (30.0, 46.0)))
    return within_budget(
        ladders,
        lambda formats: _db(_noise(drawn, formats)),
        budget,
        alone=lambda name: 30.0,
        rank=None,
        bar=lambda done, total: None,
        beyond_db=beyond_db,
    )


def test_what_costs_nothing_is_taken_beyond_the_budget_and_no_more_of_it() -> None:
    free = dict.fromkeys("abcd", (False, False))
    assert set(_spared(free, 0).formats.values()) == {"fp8"}
    found = _spared(free, 5.5)
    assert sorted(found.formats.values()) == ["fp8", "int8", "int8", "int8"] and not found.kept
    assert found.snr_db == pytest.approx(_spared(free, 0).snr_db + 5.7, abs=0.1)


def test_a_pass_over_the_input_is_not_nothing() -> None:
    """But no byte either: where the budget asks for it, it is taken, after what is free."""
    some = {"a": (False, True), "b": (False, False), "c": (True, True)}
    assert _spared(some, 20).formats == {"a": "fp8", "b": "int8", "c": "int8"}
    assert _spared(some, 0, budget=28).formats["a"] == "fp8"
    assert _spared(some, 0, budget=39).formats == dict.fromkeys("abc", "int8")
