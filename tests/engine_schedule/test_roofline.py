"""Estimated times, against ones worked out by hand."""

from __future__ import annotations

import pytest

from dsr_export.engine_schedule.devices import DEVICES, Device, named_devices
from dsr_export.engine_schedule.record import Launch
from dsr_export.engine_schedule.roofline import GRAPH_SECONDS, STREAM_SECONDS, estimate, estimates
from dsr_export.engine_schedule.tensors import BITS
from dsr_export.errors import ExportError

ROUND = Device(bandwidth=1e9, half=1e12, integer=2e12, eight=4e12, single=1e11, source="none")
MOVE = Launch(kind="copy", kernel="a", nodes=(), read={"float16": 3_000_000}, written={"float32": 1_000_000})


def _product(computes: str, operations: int, moved: int) -> Launch:
    sizes = {"read": {"int8": moved}, "written": {}}
    return Launch(kind="gemm", kernel="b", nodes=(), computes=computes, operations=operations, **sizes)


def test_what_is_moved_takes_its_time_and_each_launch_more() -> None:
    found = estimate([MOVE, MOVE], ROUND)
    assert found.stream_ms == pytest.approx(2 * (4 + 1e3 * STREAM_SECONDS))
    assert found.graph_ms == pytest.approx(2 * (4 + 1e3 * GRAPH_SECONDS))
    assert found.memory_share == 1.0


@pytest.mark.parametrize(
    ("computes", "milliseconds"),
    [
        ("float16", 10),
        ("int8", 5),
        ("float32", 100),
        ("float16 x int8", 10),
        ("bfloat16", 10),
        ("float8e4m3", 2.5),
        ("float16 x int4", 10),
    ],
)
def test_a_product_takes_the_longer_of_both(computes: str, milliseconds: float) -> None:
    far, near = _product(computes, 10**10, 1000), _product(computes, 10**10, 500_000_000)
    assert estimate([far], ROUND).graph_ms == pytest.approx(milliseconds + 1e3 * GRAPH_SECONDS)
    assert estimate([near], ROUND).graph_ms == pytest.approx(500 + 1e3 * GRAPH_SECONDS)
    assert (estimate([far], ROUND).memory_share, estimate([near], ROUND).memory_share) == (0.0, 1.0)


def test_every_device_has_its_rates_in_order_and_a_source() -> None:
    for name, device in DEVICES.items():
        assert device.single < device.half < device.integer and device.half <= device.eight <= device.integer, name
        assert 1e11 < device.bandwidth < 1e13 and device.source
    assert set(estimates([MOVE])) == set(DEVICES)
    times = {name: each["graph_ms"] for name, each in estimates([MOVE]).items()}
    assert min(times, key=times.__getitem__) == "h100-sxm" and max(times, key=times.__getitem__) == "orin-nx"


def test_nothing_takes_no_time() -> None:
    assert estimate([], ROUND).graph_ms == 0.0


def test_unknown_devices_are_refused_with_a_near_name() -> None:
    assert list(named_devices(["l4", "thor"])) == ["l4", "thor"]
    with pytest.raises(ExportError) as caught:
        named_devices(["rtx4091"])
    assert "rtx4090" in str(caught.value.hint)


def test_every_type_of_a_product_has_a_rate() -> None:
    assert all(DEVICES["l4"].peak(kind) > 0 for kind in BITS if kind not in ("bool", "int32", "int64"))
