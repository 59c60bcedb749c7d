"""Which target takes which precision, as one table; why one is refused, and that what the hint names works."""

from __future__ import annotations

import re
from dataclasses import replace

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphs.errors import ExportError
from graphs.precisions import PRECISIONS
from graphs.target_precisions import GPUS, NEEDS, PORTABLE, at_least, check_precision, lacks
from graphs.targets import TARGETS, target

ALWAYS = "fp32 fp16"
HALVES = f"{ALWAYS} bf16"
AMPERE = f"{HALVES} int8 int4"
ADA = f"{AMPERE} fp8"
BLACKWELL = f"{ADA} nvfp4 nvfp4-weights"
TAKEN = {
    ("onnxruntime", None): ADA,
    ("rtx", None): AMPERE,
    ("rtx:sm80", None): AMPERE,
    ("rtx:sm86", None): AMPERE,
    ("rtx:sm89", None): ADA,
    ("rtx:sm120", None): BLACKWELL,
    ("rtx:sm121", None): BLACKWELL,
    ("rtx:current", None): BLACKWELL,  # of some GPU
    ("rtx:current", "7.5"): ALWAYS,
    ("rtx:current", "8.6"): AMPERE,
    ("rtx:current", "8.9"): ADA,
    ("rtx:current", "12.0"): BLACKWELL,
    ("trt10", None): f"{HALVES} int8 fp8",  # opset 20 holds neither INT4 nor FP4
    ("trt10", "7.5"): f"{ALWAYS} int8",
    ("trt10", "8.7"): f"{HALVES} int8",
    ("trt10", "9.0"): f"{HALVES} int8 fp8",
    ("trt11", None): BLACKWELL,
    ("trt11", "8.7"): AMPERE,
    ("trt11", "9.0"): ADA,
    ("trt11", "10.0"): BLACKWELL,
    ("trt11", "11.0"): BLACKWELL,
    ("jetson-orin", None): f"{HALVES} int8",
    ("jetson-orin", "8.7"): f"{HALVES} int8",
    ("rtx:sm86", "12.0"): AMPERE,  # the GPU at hand decides of "current" alone
}
PAIRS = [(*place, precision) for place in TAKEN for precision in NEEDS]


@pytest.mark.parametrize(("name", "gpu", "precision"), PAIRS)
def test_every_target_takes_what_its_devices_have(name: str, gpu: str | None, precision: str) -> None:
    taken = precision in TAKEN[name, gpu].split()
    assert (lacks(target(name), precision, gpu) == []) is taken
    if taken:
        check_precision(target(name), precision, gpu)
        return
    with pytest.raises(ExportError, match=f"^target '{name}' can't run {precision}: ") as caught:
        check_precision(target(name), precision, gpu)
    _check_hint(caught.value.hint or "", name, gpu, precision)


def _check_hint(hint: str, name: str, gpu: str | None, precision: str) -> None:
    """Every target that it names takes the precision, and this one the precision it names in its place."""
    offered, instead = hint.split("; ")
    told = re.sub(r" \([^)]*\)", "", offered.removeprefix(f"{precision} runs with --target ")).split(", ")
    assert told and all(not lacks(target(each), precision, None) for each in told)
    assert instead.startswith(f"for {name} build with --precision ")
    other = instead.split()[-1]
    assert other in PRECISIONS and not lacks(target(name), other, gpu)


def test_the_table_has_every_target_and_every_precision() -> None:
    assert {name for name, _ in TAKEN} == set(TARGETS)
    assert set(PRECISIONS) <= set(NEEDS)
    assert {each.compute_capability for each in TARGETS.values()} - {None, "current"} <= set(GPUS)
    with pytest.raises(KeyError, match="fp6"):
        lacks(target("rtx"), "fp6", None)


@pytest.mark.parametrize(
    ("name", "precision", "gpu", "said"),
    [
        ("rtx", "fp8", None, r"8\.9 or later, and its one plan is also for 8\.0 \(A100\) and 8\.6 \(RTX 30, A10\)$"),
        ("jetson-orin", "fp8", None, r"its devices have 8\.7 \(Jetson Orin\)$"),
        (
            "jetson-orin",
            "int4",
            None,
            r": INT4 needs ONNX opset 21, and TensorRT 10\.3 reads up to 20; the GPU itself has it$",
        ),
        ("trt10", "int4", None, r"opset 21, and TensorRT 10\.3 reads up to 20$"),
        (
            "trt10",
            "int4",
            "7.5",
            r"the GPU here has 7\.5 \(RTX 20, T4\); INT4 needs ONNX opset 21, and TensorRT 10\.3 .* 20$",
        ),
        (
            "jetson-orin",
            "nvfp4",
            None,
            r"8\.7 \(Jetson Orin\); .*opset 23, and TensorRT 10\.3 reads up to 20; .* takes 10\.3 as well$",
        ),
        ("trt11", "fp8", "8.7", r"the GPU here has 8\.7 \(Jetson Orin\)$"),
        ("trt10", "int4", "12.0", ": INT4 needs ONNX opset 21"),
        ("trt10", "nvfp4", "8.9", "the GPU here has 8.9 .*opset 23.*TensorRT 10.8 or later, and it takes 10.3"),
        ("rtx:current", "int8", "7.5", "8.0 or later in TensorRT-RTX, and the GPU here has 7.5"),
        ("onnxruntime", "nvfp4", None, ": ONNX Runtime has no kernels for FP4$"),
        ("trt11", "fp8", "8.8", "the GPU here has 8.8$"),  # of a device that has no name here
    ],
)
def test_the_true_reason_is_said(name: str, precision: str, gpu: str | None, said: str) -> None:
    with pytest.raises(ExportError, match=said):
        check_precision(target(name), precision, gpu)


def test_a_part_is_named() -> None:
    with pytest.raises(ExportError, match="^vae: target 'jetson-orin' can't run fp8"):
        check_precision(target("jetson-orin"), "fp8", None, of="vae")


def test_the_version_decides_where_opset_and_gpu_would_do() -> None:
    newer = replace(target("trt10"), opset=23)
    assert lacks(newer, "nvfp4", "12.0") == [
        "FP4 needs TensorRT 10.8 or later, and it takes 10.3 as well; the GPU itself has it"
    ]
    assert lacks(replace(newer, version=">=10.8,<11"), "nvfp4", "12.0") == []
    assert lacks(newer, "int4", "12.0") == []


@given(
    st.sampled_from(sorted(TARGETS)), st.sampled_from(sorted(NEEDS)), st.lists(st.sampled_from(list(GPUS)), min_size=2)
)
def test_a_later_gpu_lacks_nothing_that_an_earlier_one_has(name: str, precision: str, gpus: list[str]) -> None:
    earlier, later = sorted(gpus[:2], key=lambda each: tuple(map(int, each.split("."))))
    assert at_least(later, earlier)
    assert lacks(target(name), precision, earlier) or not lacks(target(name), precision, later)


@given(st.sampled_from(sorted(NEEDS)))
def test_the_portable_plan_takes_what_each_of_its_devices_takes(precision: str) -> None:
    each = [lacks(target("rtx:current"), precision, gpu) for gpu in (*PORTABLE, "12.0", "12.1")]
    assert (lacks(target("rtx"), precision, None) == []) == (not any(each))


@pytest.mark.parametrize(
    ("precision", "kind"), [("int8", "int8"), ("fp8", "float8e4m3fn"), ("int4", "int4"), ("nvfp4", "float4e2m1")]
)
def test_opsets_are_those_of_onnx(precision: str, kind: str) -> None:
    def dequantised(opset: int) -> bool:
        schema = onnx.defs.get_schema("DequantizeLinear", opset)
        return any(f"tensor({kind})" in each.allowed_type_strs for each in schema.type_constraints)

    first = NEEDS[precision].opset
    assert dequantised(first)
    assert first == 10 or not dequantised(first - 1)
