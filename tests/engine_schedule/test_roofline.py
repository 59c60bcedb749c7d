"""Estimated times, against ones worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsr_export.engine_schedule.devices import DEVICES, Device, named_devices
from dsr_export.engine_schedule.record import Launch
from dsr_export.engine_schedule.roofline import GRAPH_SECONDS, STREAM_SECONDS, estimate, estimates, not_estimated
from dsr_export.engine_schedule.tensors import BITS
from dsr_export.errors import ExportError
from graphs.target_precisions import NEEDS, at_least

ROUND = Device(
    capability="12.0", bandwidth=1e9, half=1e12, integer=2e12, eight=4e12, four=8e12, single=1e11, source="none"
)
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
        ("float4e2m1", 1.25),
        ("float16 x float4e2m1", 10),
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
        assert device.single < device.half < device.integer, name
        assert device.eight is None or device.half < device.eight <= device.integer, name
        assert device.four is None or device.four >= 2 * device.integer * 0.99, name
        assert 1e11 < device.bandwidth < 1e13 and device.source
    assert set(estimates([MOVE])) == set(DEVICES)
    times = {name: each["graph_ms"] for name, each in estimates([MOVE]).items()}
    assert min(times, key=times.__getitem__) == "h100-sxm" and max(times, key=times.__getitem__) == "orin-nx"


@pytest.mark.parametrize(
    ("precision", "rate", "kind"), [("fp8", "eight", "float8e4m3"), ("nvfp4", "four", "float4e2m1")]
)
def test_devices_have_rates_of_what_their_compute_capability_has(precision: str, rate: str, kind: str) -> None:
    for name, device in DEVICES.items():
        has = at_least(device.capability, NEEDS[precision].capability["tensorrt"])
        assert (getattr(device, rate) is not None) is has, name
        assert (device.lacks([kind, "float16"]) == []) is has
        if not has:
            with pytest.raises(ValueError, match="no product of"):
                device.peak(f"float16 x {kind}")


FP8, FP4 = _product("float8e4m3", 10**10, 1000), _product("float16 x float4e2m1", 10**10, 1000)
CONVERSION = replace(MOVE, written={"float8e4m3": 1000})


@pytest.mark.parametrize(
    ("launches", "left_out"),
    [
        ([MOVE, _product("int8", 1, 1)], {}),
        ([MOVE, FP8], dict.fromkeys(("orin-agx", "orin-nx"), "FP8")),
        ([CONVERSION], dict.fromkeys(("orin-agx", "orin-nx"), "FP8")),  # no product, and yet the device can't make it
        ([FP4], dict.fromkeys(("orin-agx", "orin-nx", "rtx4060", "rtx4090", "l4", "h100-sxm"), "FP4")),
    ],
)
def test_a_device_that_lacks_a_format_has_no_estimate(launches: list[Launch], left_out: dict[str, str]) -> None:
    assert not_estimated(launches) == {name: f"{name} has no {format}" for name, format in left_out.items()}
    assert set(estimates(launches)) == set(DEVICES) - set(left_out)
    assert set(estimates([MOVE], of=launches)) == set(DEVICES) - set(left_out)


def test_all_that_is_lacking_is_named() -> None:
    assert not_estimated([FP8, FP4])["orin-nx"] == "orin-nx has no FP4 and no FP8"


def test_nothing_takes_no_time() -> None:
    assert estimate([], ROUND).graph_ms == 0.0


def test_unknown_devices_are_refused_with_a_near_name() -> None:
    assert list(named_devices(["l4", "thor"])) == ["l4", "thor"]
    with pytest.raises(ExportError) as caught:
        named_devices(["rtx4091"])
    assert "rtx4090" in str(caught.value.hint)


def test_every_type_of_a_product_has_a_rate() -> None:
    assert all(DEVICES["thor"].peak(kind) > 0 for kind in BITS if kind not in ("bool", "int32", "int64"))
