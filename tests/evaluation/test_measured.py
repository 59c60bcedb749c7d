"""The same figures, bit for bit, however the pictures were shared out, and after any number of interruptions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsr_export.declarations.share import Share
from dsr_export.errors import ExportError
from dsr_export.evaluation.drawers import Drawn
from dsr_export.evaluation.measured import Measuring, measure, read_part
from dsr_export.evaluation.metrics import parsed
from dsr_export.evaluation.moments import Moments
from dsr_export.evaluation.panel import Panel
from dsr_export.evaluation.parts import Part, parts_of
from dsr_export.evaluation.summary import Line, summarised
from dsr_export.progress import Silent
from dsr_export.storage.cache import StageCache
from tests.evaluation.made import Blocks, drawn

COUNT = 300
REAL = {"fid": Moments.of(Blocks()(drawn(Part(0, 0, 200), seed=7)).features)}


def _measuring(noise: int = 5, metrics: str = "fid,is,psnr,ssim", **changed: Any) -> Measuring:
    panel = Panel(metrics=parsed(metrics), extractors={"fid": Blocks()})
    sides = {"candidate": partial(drawn, noise=noise), "reference": drawn}
    return Measuring(**{**sides, "drawn": Drawn(), "classes": 10, "panel": panel, "key": {"noise": noise}, **changed})


def _lines(measuring: Measuring, cache: StageCache, count: int = COUNT) -> list[Line]:
    parts = [read_part(stage) for stage in measure(measuring, parts_of(count), cache, Silent())]
    return [summarised(each, parts, REAL, paired=measuring.reference is not None) for each in measuring.panel.metrics]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[Line]:
    return _lines(_measuring(), StageCache(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize("order", [[1], [7, 3, 1, 5, 6, 2, 4]])
def test_shares_in_any_order_give_the_same_figures(tmp_path: Path, whole: list[Line], order: Sequence[int]) -> None:
    cache, parts = StageCache(tmp_path), parts_of(COUNT)
    for i in order:
        measure(_measuring(), Share(i, len(order)).taken(parts), cache, Silent())
    drawers = {"candidate": _never, "reference": _never}
    assert _lines(_measuring(**drawers), cache) == whole


def test_a_run_that_was_stopped_twice_gives_the_same_figures(tmp_path: Path, whole: list[Line]) -> None:
    cache = StageCache(tmp_path)
    drawn_parts: list[int] = []

    def stops_at(index: int, part: Part) -> np.ndarray:
        if part.index == index:
            raise KeyboardInterrupt
        drawn_parts.append(part.index)
        return drawn(part, noise=5)

    for index in (5, 12):
        with pytest.raises(KeyboardInterrupt):
            _lines(_measuring(candidate=partial(stops_at, index)), cache)
    assert _lines(_measuring(candidate=partial(stops_at, -1)), cache) == whole
    assert drawn_parts == list(range(len(parts_of(COUNT))))  # nothing twice


def test_figures_are_those_of_all_pictures_at_once(whole: list[Line]) -> None:
    every = Part(0, 0, COUNT)
    made, other = drawn(every, noise=5), drawn(every)
    by_name = {line.metric.name: line for line in whole}
    from dsr_export.evaluation.distances import frechet_distance
    from dsr_export.evaluation.pair_figures import psnr, squared_errors, ssim

    fid = frechet_distance(Moments.of(Blocks()(made).features), REAL["fid"])
    assert by_name["fid"].value.value == pytest.approx(fid, rel=1e-9)
    assert by_name["psnr"].value.value == pytest.approx(psnr(float(squared_errors(made, other).mean())), rel=1e-12)
    assert by_name["ssim"].value.value == pytest.approx(float(ssim(made, other).mean()), rel=1e-12)


def test_intervals_hold_other_seeds_and_differences_are_tighter(whole: list[Line]) -> None:
    fid = whole[0]
    assert fid.difference is not None and fid.reference is not None
    assert fid.value.half_width and fid.difference.half_width
    assert fid.difference.half_width < fid.value.half_width
    assert fid.difference.value == pytest.approx(fid.value.value - fid.reference.value, abs=1e-12)


@pytest.mark.parametrize("count", [9, 10, 33])
def test_a_short_last_part_may_be_drawn_again_and_again(tmp_path: Path, count: int) -> None:
    """Draws with replacement may then hold fewer pictures than features, which refuses no figure of all pictures."""
    fid = _lines(_measuring(metrics="fid"), StageCache(tmp_path), count)[0]
    assert fid.value.value > 0 and (fid.value.half_width is None) == (count < 25)


def test_the_worst_pictures_are_kept(tmp_path: Path) -> None:
    def spoiled(part: Part) -> np.ndarray:
        made = drawn(part)
        made[np.arange(part.first, part.first + part.count) == 123] ^= 0x3F
        return made

    stages = measure(_measuring(candidate=spoiled), parts_of(COUNT), StageCache(tmp_path), Silent())
    parts = [read_part(stage) for stage in stages]
    assert 123 in next(part["shown/index"] for part in parts if part["pairs/squared_error"].any())


def test_pictures_of_two_sizes_are_refused(tmp_path: Path) -> None:
    measuring = _measuring(reference=lambda part: drawn(part)[:, :12])
    with pytest.raises(ExportError, match="16x16x1 and 12x16x1"):
        measure(measuring, parts_of(8), StageCache(tmp_path), Silent())


def _never(part: Part) -> np.ndarray:
    raise AssertionError(f"part {part.index} is drawn again")
