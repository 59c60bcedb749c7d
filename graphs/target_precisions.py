"""Which precisions a target takes: what its devices multiply, what its ONNX opset holds, what its runtime computes.

TensorRT-RTX builds a portable plan of any format without a word, also for devices of its list that lack it: so this
table decides, before anything is built.

| fact | source |
|---|---|
| FP8 from 8.9, FP4 from 10.0; explicit Q/DQ | TensorRT-RTX documentation, "Working with Quantized Types" |
| BF16, INT8 and INT4 from 8.x in TensorRT-RTX: "no" for 7.5 | TensorRT-RTX 1.0 to 1.5, "Support Matrix", table 1 |
| FP8 and INT8 (on 7.5, too) in TensorRT 10 | TensorRT 10.0.1, "Support Matrix" |
| INT4 in TensorRT for weights alone | TensorRT 10.11, "Working with Quantized Types" |
| opsets 9 to 20 in TensorRT 10.0 to 10.3, though the parser knows INT4 | onnx-tensorrt 10.1, operators.md; changelogs |
| BF16 from 8.0 | Transformer Engine, "Datatype and hardware support matrix" |
| FP4 (E2M1) in TensorRT since 10.8, on Blackwell | TensorRT 10.8.0, "Release Notes" |
| INT4 weights under FP16 from Ampere on | Model Optimizer, "Support Matrix", W4A16 |
| FLOAT8E4M3FN from opset 19, INT4 from 21, FLOAT4E2M1 from 23 | ONNX, DequantizeLinear |
| no kernel of DequantizeLinear for FP4; those of FP8 and INT4 on CPUs | tried with ONNX Runtime 1.31.1 |
| devices of a compute capability | developer.nvidia.com/cuda-gpus |
| 8.6, 8.9 and 12.0 in one portable plan | TensorRT-RTX, "Support Matrix", notes; 1.7.1 takes 8.0 as well |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from graphs.errors import ExportError
from graphs.targets import TARGETS, Target

PORTABLE = ("8.0", "8.6", "8.9")
"""What a TensorRT-RTX plan for no GPU in particular runs on, beside 12.0 and later: not 8.7 (Orin), not 9.0."""
LATER = "12.0"
GPUS: Mapping[str, str] = {
    "7.5": "RTX 20, T4",
    "8.0": "A100",
    "8.6": "RTX 30, A10",
    "8.7": "Jetson Orin",
    "8.9": "RTX 40, L4, L40",
    "9.0": "H100, H200",
    "10.0": "B200",
    "10.3": "B300",
    "11.0": "Jetson Thor",
    "12.0": "RTX 50, RTX PRO Blackwell",
    "12.1": "GB10 of DGX Spark",
}
"""Compute capability -> whose it is, for people."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a precision needs. Nothing has a default: who adds one decides each.

    `format` is how it is said. `capability` is the least of a GPU by backend, without an entry any. `tensorrt` is the
    first version of TensorRT that has it, `opset` the first of ONNX, `on_cpu` whether ONNX Runtime has kernels.
    `instead` are the precisions for devices that lack it, the nearest first.
    """

    format: str
    capability: Mapping[str, str]
    tensorrt: str
    opset: int
    on_cpu: bool
    instead: tuple[str, ...]


def _from(capability: str) -> dict[str, str]:
    """The least of either backend."""
    return {"tensorrt": capability, "tensorrt_rtx": capability}


_INTEGERS = ("int8", "fp16")
_FOUR_BIT_FLOATS = Needs(
    format="FP4", capability=_from("10.0"), tensorrt="10.8", opset=23, on_cpu=False, instead=("int4", "fp8", *_INTEGERS)
)
NEEDS: Mapping[str, Needs] = {
    "fp32": Needs(format="FP32", capability={}, tensorrt="10", opset=1, on_cpu=True, instead=()),
    "fp16": Needs(format="FP16", capability={}, tensorrt="10", opset=1, on_cpu=True, instead=()),
    # ONNX Runtime's kernels for CPUs lack BF16, and what they compute in its place is rounded node by node
    "bf16": Needs(
        format="BF16", capability=_from("8.0"), tensorrt="10", opset=13, on_cpu=True, instead=("fp16", "fp32")
    ),
    "int8": Needs(
        format="INT8", capability={"tensorrt_rtx": "8.0"}, tensorrt="10", opset=10, on_cpu=True, instead=("fp16",)
    ),
    "fp8": Needs(format="FP8", capability=_from("8.9"), tensorrt="10", opset=19, on_cpu=True, instead=_INTEGERS),
    "int4": Needs(format="INT4", capability=_from("8.0"), tensorrt="10", opset=21, on_cpu=True, instead=_INTEGERS),
    "nvfp4-weights": _FOUR_BIT_FLOATS,
    "nvfp4": _FOUR_BIT_FLOATS,
}
"""By the precision's name; one may stand here before it can be built."""


def lacks(where: Target, precision: str, gpu: str | None) -> list[str]:
    """Why `where` can't run `precision`, in words; empty where it can, or where that depends on a GPU not known yet.

    `gpu` is the compute capability of the GPU at hand, which targets for the "current" one are built for.
    """
    needs = NEEDS[precision]
    by_gpu, by_software = list(_gpus_lack(where, needs, gpu)), list(_software_lacks(where, needs))
    known = where.backend == "tensorrt" and _capabilities(where, gpu) != ()
    if by_software and known and not by_gpu:
        by_software[-1] += "; the GPU itself has it"
    return [*by_gpu, *by_software]


def check_precision(where: Target, precision: str, gpu: str | None, *, of: str | None = None) -> None:
    """Raises ExportError where `lacks` finds anything: what, and which targets and precisions do instead.

    `of` names the part that is to have the precision, where it is not the model itself.
    """
    found = lacks(where, precision, gpu)
    if not found:
        return
    model = "" if of is None else f"{of}: "
    instead = next((each for each in NEEDS[precision].instead if not lacks(where, each, gpu)), None)
    way_out = "" if instead is None else f"; for {where.name} build with --precision {instead}"
    raise ExportError(
        f"{model}target '{where.name}' can't run {precision}: {'; '.join(found)}",
        hint=f"{precision} runs with --target {', '.join(_takers(precision))}{way_out}",
    )


def on_gpu(capability: str) -> str:
    """The compute capability, and whose it is."""
    return f"{capability} ({GPUS[capability]})" if capability in GPUS else capability


def at_least(capability: str, least: str) -> bool:
    """Whether one compute capability, or version, is the other or a later one."""
    return _numbers(capability) >= _numbers(least)


def _gpus_lack(where: Target, needs: Needs, gpu: str | None) -> Iterator[str]:
    least = needs.capability.get(where.backend)
    if least is None:
        return
    short = [on_gpu(each) for each in _capabilities(where, gpu) if not at_least(each, least)]
    if short:
        has = "the GPU here has" if where.compute_capability == "current" else "its devices have"
        has = has if where.compute_capability is not None else "its one plan is also for"
        only = " in TensorRT-RTX" if len(needs.capability) == 1 else ""
        yield f"{needs.format} needs compute capability {least} or later{only}, and {has} {' and '.join(short)}"


def _capabilities(where: Target, gpu: str | None) -> tuple[str, ...]:
    """Of the devices that an engine for `where` runs on; none where they are not known."""
    if where.compute_capability is None:
        return (*PORTABLE, LATER)
    if where.compute_capability == "current":
        return () if gpu is None else (gpu,)
    return (where.compute_capability,)


def _software_lacks(where: Target, needs: Needs) -> Iterator[str]:
    if where.backend == "onnxruntime" and not needs.on_cpu:
        yield f"ONNX Runtime has no kernels for {needs.format}"
    if where.opset < needs.opset:
        yield f"{needs.format} needs ONNX opset {needs.opset}, and {_reader(where)} reads up to {where.opset}"
    if where.backend == "tensorrt" and (oldest := where.oldest_version) and not at_least(oldest, needs.tensorrt):
        yield f"{needs.format} needs TensorRT {needs.tensorrt} or later, and it takes {oldest} as well"


def _reader(where: Target) -> str:
    """What reads the graph: where a version of TensorRT falls short, a newer one on the same device may not."""
    return "it" if where.backend != "tensorrt" or where.oldest_version is None else f"TensorRT {where.oldest_version}"


def _takers(precision: str) -> Iterator[str]:
    """Targets that run it, engines first, each with its devices."""
    for where in sorted(TARGETS.values(), key=lambda each: each.backend == "onnxruntime"):
        if not lacks(where, precision, None):
            yield where.name + _devices(where, NEEDS[precision])


def _devices(where: Target, needs: Needs) -> str:
    if where.compute_capability is None:
        return ""
    if where.compute_capability != "current":
        return f" ({GPUS[where.compute_capability]})"
    least = needs.capability.get(where.backend)
    kind = "an RTX GPU" if where.backend == "tensorrt_rtx" else "a GPU"
    return "" if least is None else f" (on {kind} of {least} or later)"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
