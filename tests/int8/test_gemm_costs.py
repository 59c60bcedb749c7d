"""Bytes and estimated times of GEMMs by format, against figures worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from dsr_export.engine_schedule.devices import DEVICES
from dsr_export.engine_schedule.roofline import GRAPH_SECONDS
from dsr_export.int8.gemm_costs import Product, gemm_costs
from graphs.precisions import Precision, quantized_precisions
from graphs.quantize.schemes import SCHEMES

K, N, TOKENS, BATCH = 128, 384, 64, 2
ROWS = BATCH * TOKENS
WEIGHTS = {
    "fp16": 2 * K * N,
    "int8": K * N + 2 * N,
    "fp8": K * N + 2 * N,
    "int4": K * N // 2 + 2 * (K // 64) * N,
    "nvfp4-weights": K * N // 2 + (K // 16) * N,
    "nvfp4": K * N // 2 + (K // 16) * N + 2 * 16 * (K + N),
}
QUANTISED = ROWS * K // 2 + ROWS * K // 16  # codes of NVFP4 and their scales
ACTIVATIONS = {
    "fp16": 2 * ROWS * (K + N),
    "int8": ROWS * K + 2 * ROWS * N,
    "fp8": ROWS * K + 2 * ROWS * N,
    "int4": 2 * ROWS * (K + N),
    "nvfp4-weights": 2 * ROWS * (K + N),
    # quantised, its scales copied, the product, down, and up with what is added
    "nvfp4": (2 * ROWS * K + QUANTISED) + ROWS * K // 8 + (QUANTISED + 2 * ROWS * N)
    + 2 * ROWS * (K + 16) + 2 * ROWS * (16 + 2 * N),
}  # fmt: skip
LAUNCHES = {"fp16": 1, "int8": 1, "fp8": 1, "int4": 1, "nvfp4-weights": 2, "nvfp4": 5}


def _gemm(precision: str = "fp16", **other: Any) -> dict[str, Any]:
    shape = {"reads": "x", "tokens": TOKENS, "inputs": K, "outputs": N, "rank": 16 if precision == "nvfp4" else 0}
    shape |= {"coded_product": False, "engine_floats": False}
    return {"name": "g", "precision": precision, **shape, **other}


@pytest.mark.parametrize("precision", WEIGHTS)
def test_bytes_are_those_of_codes_scales_and_branches(precision: str) -> None:
    (told,) = gemm_costs([_gemm(precision)], BATCH)["formats"]
    assert (told["format"], told["gemms"], told["launches"]) == (precision, 1, LAUNCHES[precision])
    assert (told["weight_bytes"], told["activation_bytes"]) == (WEIGHTS[precision], ACTIVATIONS[precision])


def test_a_product_that_is_handed_on_as_codes_is_a_byte_for_each_number() -> None:
    cost = gemm_costs([_gemm("int8", coded_product=True)], BATCH)
    assert cost["chosen"]["activation_bytes"] == ROWS * (K + N)
    assert cost["all_fp16"]["activation_bytes"] == ACTIVATIONS["fp16"]


def test_what_engines_have_in_floats_counts_as_such() -> None:
    """However its product would have been handed on."""
    cost = gemm_costs([_gemm("int8", coded_product=True, engine_floats=True), _gemm("int8", name="h")], BATCH)
    assert [(each["format"], each["gemms"]) for each in cost["formats"]] == [("int8", 1), ("fp16", 1)]
    assert cost["chosen"]["weight_bytes"] == WEIGHTS["int8"] + WEIGHTS["fp16"]
    assert cost["chosen"]["activation_bytes"] == ACTIVATIONS["int8"] + ACTIVATIONS["fp16"]


@pytest.mark.parametrize("precision", quantized_precisions())
def test_formats_are_in_the_order_of_their_ladder(precision: Precision) -> None:
    ladder = [*(each.name for each in SCHEMES[precision].tokens), "fp16"]
    cost = gemm_costs([_gemm(form, name=form) for form in reversed(ladder)], BATCH)
    assert [each["format"] for each in cost["formats"]] == ladder


def test_every_format_of_a_ladder_has_a_cost() -> None:
    forms = {each.name for name in quantized_precisions() for each in SCHEMES[name].tokens}  # type: ignore[index]
    assert forms | {"fp16"} == set(WEIGHTS)


@pytest.mark.parametrize("precision", ["fp16", "int8", "fp8"])
def test_a_product_takes_the_longer_of_both_and_a_launch(precision: str) -> None:
    device, rate = DEVICES["l4"], {"fp16": "half", "int8": "integer", "fp8": "eight"}[precision]
    for tokens in (16, 64000):
        rows = BATCH * tokens
        told = gemm_costs([_gemm(precision, tokens=tokens)], BATCH)["chosen"]
        moved = (told["weight_bytes"] + told["activation_bytes"]) / device.bandwidth
        longest = max(moved, 2 * rows * K * N / getattr(device, rate))
        assert told["estimates"]["l4"]["graph_ms"] == pytest.approx(1e3 * (longest + GRAPH_SECONDS))


def test_all_in_fp16_stands_beside_whatever_was_chosen() -> None:
    floats = gemm_costs([_gemm(name="a"), _gemm(name="b")], BATCH)
    mixed = gemm_costs([_gemm("nvfp4", name="a"), _gemm("int8", name="b")], BATCH)
    assert mixed["all_fp16"] == floats["all_fp16"] == floats["chosen"]
    assert [each["format"] for each in mixed["formats"]] == ["nvfp4", "int8"]
    for key in ("gemms", "launches", "weight_bytes", "activation_bytes"):
        assert mixed["chosen"][key] == sum(each[key] for each in mixed["formats"])


def test_a_device_is_left_out_of_what_it_lacks_and_of_the_sum() -> None:
    cost = gemm_costs([_gemm("nvfp4-weights", name="a"), _gemm("fp8", name="b"), _gemm("int8", name="c")], BATCH)
    by_format = {each["format"]: each for each in cost["formats"]}
    assert by_format["fp8"]["not_estimated"]["orin-agx"] == "orin-agx has no FP8"
    assert by_format["nvfp4-weights"]["not_estimated"]["rtx4090"] == "rtx4090 has no FP4"
    assert set(by_format["int8"]["estimates"]) == set(cost["all_fp16"]["estimates"]) == set(DEVICES)
    assert set(cost["chosen"]["estimates"]) == {"thor", "rtx5090"}
    for told in (*cost["formats"], cost["chosen"]):
        assert told["estimates"].keys() | told["not_estimated"].keys() == set(DEVICES)


def test_gemms_of_one_condition_are_one_product() -> None:
    """Two rows of codes for each, whose products are FP32; of other conditions, other products."""
    blocks = [_gemm("int8", name=f"b{i}", tokens=1) for i in range(4)]
    told = gemm_costs(blocks, BATCH)["chosen"]
    assert (told["gemms"], told["launches"]) == (4, 1)
    assert told["weight_bytes"] == 4 * (K * N + 4 * N)
    assert told["activation_bytes"] == 2 * BATCH * K + 2 * BATCH * 4 * N * 4
    assert gemm_costs([*blocks, _gemm("int8", tokens=1, reads="y")], BATCH)["chosen"]["launches"] == 2
    assert gemm_costs(blocks, BATCH)["all_fp16"]["launches"] == 1


def test_weights_alone_in_fp4_take_no_less_time_than_fp16() -> None:
    """TensorRT-RTX makes FP16 of them first."""
    cost = gemm_costs([_gemm("nvfp4-weights")], BATCH)
    for device, told in cost["chosen"]["estimates"].items():
        assert told["graph_ms"] > cost["all_fp16"]["estimates"][device]["graph_ms"]


def test_a_branch_may_be_left_away() -> None:
    bare = gemm_costs([_gemm("nvfp4", rank=0)], BATCH)["chosen"]
    assert bare["launches"] == 3
    assert Product(format="nvfp4", tokens=TOKENS, inputs=K, outputs=N).weight == {23: K * N, 17: K * N // 16}
    assert bare["weight_bytes"] == WEIGHTS["nvfp4"] - 2 * 16 * (K + N)
