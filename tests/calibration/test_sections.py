"""Sections: whoever adds up which of them, in whatever order, the sums are the same to the last bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.part_arrays import NODE, exact_arrays, merge_exact, merge_sums, sum_arrays
from calibration.places import TokenPlaces
from calibration.sections import MOST_SECTIONS, Sections
from calibration.shelf import Shelf
from calibration.stats import ActivationStats
from calibration.token_roles import RegisterRows

TOKENS, WIDTH, ROWS = 6, 5, 3
MOST = 11  # sections


def _stats(sections: int, shelf: Shelf | None = None) -> ActivationStats:
    registers, places = RegisterRows(count=1, patches=5), TokenPlaces()
    return ActivationStats("h", WIDTH, TOKENS, registers, places=places, sections=sections, shelf=shelf)


def _values() -> np.ndarray:
    """[MOST * ROWS, TOKENS, WIDTH] of very different sizes: added up in another order, they give another sum."""
    rng = np.random.default_rng(3)
    return (
        rng.standard_normal((MOST * ROWS, TOKENS, WIDTH)) * 10.0 ** rng.integers(-3, 4, (MOST * ROWS, 1, 1))
    ).astype(np.float32)


VALUES = _values()


def _see(stats: ActivationStats, section: int) -> None:
    """Two calls of a section."""
    for rows in (np.arange(2), np.array([2])):
        ids = section * ROWS + rows
        stats.observe(VALUES[ids], ids, ids % 4, 1.0 + ids % 2, section=section)


def _bytes(stats: ActivationStats) -> dict[str, bytes]:
    found = {**exact_arrays(stats), **stats.added.whole().arrays()}
    return {name: value.tobytes() for name, value in found.items()}


def _alone(sections: int) -> dict[str, bytes]:
    stats = _stats(sections)
    for section in range(sections):
        _see(stats, section)
    return _bytes(stats)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), sections=st.integers(1, MOST), shares=st.integers(1, 8), shelved=st.booleans())
def test_any_partition_in_any_order_gives_the_bytes_of_one_machine(
    data: st.DataObject, sections: int, shares: int, shelved: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    owner = data.draw(st.lists(st.integers(0, shares - 1), min_size=sections, max_size=sections))
    order = data.draw(st.permutations(range(shares)))
    shelf = Shelf(tmp_path_factory.mktemp("s") / "waiting") if shelved else None
    joined = _stats(sections)
    for share in order:
        part = _stats(sections, shelf)
        for section in data.draw(st.permutations([i for i in range(sections) if owner[i] == share])):
            _see(part, section)
        merge_exact(joined, exact_arrays(part))
        for arrays in sum_arrays(part):
            merge_sums(joined, {name: value.copy() for name, value in arrays.items()})
    assert _bytes(joined) == _alone(sections)


def test_the_order_would_matter_without_the_tree() -> None:
    """What the property rests on: plain sums over these sections differ."""
    found = []
    for order in (range(MOST), reversed(range(MOST))):
        one = _stats(1)
        for section in order:
            ids = section * ROWS + np.arange(ROWS)
            one.observe(VALUES[ids], ids, ids % 4, np.ones(ROWS))
        found.append(one.hessian.tobytes())
    assert found[0] != found[1]


def test_neighbours_are_one_sum_and_little_waits_on_the_shelf(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "waiting")
    stats = _stats(8, shelf)
    for section in range(7):
        _see(stats, section)
    nodes = [tuple(arrays[NODE].tolist()) for arrays in sum_arrays(stats)]
    assert sorted(nodes) == [(0, 6), (1, 2), (2, 0)]
    assert len(list(shelf.folder.iterdir())) == 3
    with pytest.raises(ValueError, match="not seen"):
        _ = stats.hessian
    _see(stats, 7)
    assert np.isfinite(stats.hessian).all() and list(shelf.folder.iterdir()) == []


@pytest.mark.parametrize("units", [0, 1, 5, 32, 33, 64, 1000])
def test_sections_are_few_and_depend_on_the_data_alone(units: int) -> None:
    sections = Sections(units)
    held = [sections.of(unit) for unit in range(units)]
    assert held == sorted(held) and set(held) <= set(range(sections.count))
    assert 1 <= sections.count <= MOST_SECTIONS and len(set(held)) == (sections.count if units else 0)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"counts": np.zeros(3, np.int64)}, "'counts' is int64"),
        ({"channel_largest": np.zeros(WIDTH, np.float64)}, "'channel_largest' is float64"),
        ({"sample/keys": np.zeros(1)}, "differ in number"),
        ({"sample/rows": np.zeros((9, WIDTH + 1), np.float32)}, "'sample/rows' is float32"),
        ({"more": np.zeros(1)}, "'more' is unknown"),
        ({"count": None}, "'count' is missing"),
    ],
)
def test_counts_of_another_activation_are_refused(changed: dict[str, np.ndarray | None], said: str) -> None:
    part = _stats(2)
    _see(part, 0)
    arrays = {name: value for name, value in {**exact_arrays(part), **changed}.items() if value is not None}
    with pytest.raises(ValueError, match=said):
        merge_exact(_stats(2), arrays)


@pytest.mark.parametrize("node", [(0, 2), (40, 0), (-1, 0), (0, -1)])
def test_sums_of_sections_that_are_not_there_are_refused(node: tuple[int, int]) -> None:
    part = _stats(2)
    _see(part, 0)
    (arrays,) = sum_arrays(part)
    with pytest.raises(ValueError, match="does not have"):
        merge_sums(_stats(2), {**arrays, NODE: np.array(node)})


def test_a_section_counts_once() -> None:
    part, joined = _stats(4), _stats(4)
    _see(part, 2)
    (arrays,) = sum_arrays(part)
    merge_sums(joined, arrays)
    for node in ((0, 2), (1, 1), (2, 0)):
        with pytest.raises(ValueError, match="there twice"):
            merge_sums(joined, {**arrays, NODE: np.array(node)})
