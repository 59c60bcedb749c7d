"""What the kernels of sites are, among kernels written by hand."""

from __future__ import annotations

import pytest

from dsr_export.engine_schedule.devices import DEVICES
from dsr_export.engine_schedule.dsr_sites import site_costs
from dsr_export.engine_schedule.record import Launch
from dsr_export.engine_schedule.roofline import GRAPH_SECONDS, STREAM_SECONDS


def _launch(*nodes: str, moved: int = 1000) -> Launch:
    return Launch(kind="reduction", kernel="k", nodes=nodes, read={"float16": moved}, written={"float16": moved})


SITE = "dsr/lower/replacements.{}/squares"
LAUNCHES = [
    _launch("blocks.0.mlp/MatMul"),
    _launch("dsr/type/cast/blocks.0/Add_5.float", SITE.format(0), moved=2000),
    _launch(SITE.format(0), SITE.format(1)),
    _launch("dsr/lower/replacements.0/norms_2", "blocks.1.norm1/Mul", moved=10**6),
    _launch("dsr/type/cast/blocks.1/Add_5.float"),
    _launch(),
]


def test_kernels_that_do_nothing_else_are_counted_and_estimated() -> None:
    found = site_costs(LAUNCHES)
    assert found is not None
    times = found.pop("estimates")
    assert found == {"sites": 2, "launches": 2, "shared_launches": 1, "moved_bytes": 6000}
    assert set(times) == set(DEVICES)
    busy = 6000 / DEVICES["l4"].bandwidth
    assert times["l4"]["graph_ms"] == pytest.approx(1e3 * (busy + 2 * GRAPH_SECONDS))
    assert times["l4"]["stream_ms"] == pytest.approx(1e3 * (busy + 2 * STREAM_SECONDS))


def test_an_engine_without_sites_has_no_costs_of_them() -> None:
    rows = _launch("dsr/insert/replacements.0/rows")  # rows that are appended are no site
    assert site_costs([LAUNCHES[0], LAUNCHES[4], LAUNCHES[5], rows]) is None
