"""Every precision, as one record each: whoever adds one adds it here, and `TOLERANCES` says what it may cost.

Look-ups are by index, so that a precision without a record fails by name instead of passing for another. Loads no onnx:
the command line lists the precisions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8", "int4", "nvfp4-weights", "nvfp4"]
FLOAT, INT8, FLOAT16, BFLOAT16, FLOAT8, INT4, FLOAT4 = 1, 3, 10, 16, 17, 22, 23
"""Element types, by ONNX's numbers."""
HEADROOM = 4.0  # between what a type holds, and what a tensor that was seen, or is bounded, may reach


@dataclass(frozen=True)
class Held:
    """The magnitudes that `type` (an ONNX element type) holds at full precision, apart from zero.

    `exact` is the relative error of a number in between.
    """

    type: int
    least: float
    largest: float
    exact: float

    def __contains__(self, size: float) -> bool:
        return self.least <= size <= self.largest / HEADROOM


SINGLE = Held(FLOAT, 0.0, float("inf"), 2.0**-24)  # the reference's own type: nothing is beyond it
HALF = Held(FLOAT16, 2.0**-14, 65504.0, 2.0**-11)
BRAIN = Held(BFLOAT16, 0.0, 3.3895e38, 2.0**-8)  # FP32's range but for its last steps


@dataclass(frozen=True, kw_only=True)
class PrecisionRecord:
    """What one precision is. Nothing has a default: who adds one decides each.

    `weights` is the element type of the weights of GEMMs and convolutions, `finer` are those of codes that some of them
    may have in its place, `held` says the type of everything else.
    `quantized` graphs are calibrated first, and have integer GEMMs. `fused` says that ONNX Runtime has kernels of its
    own for such graphs, beside those that run them as written. `fraction` is the name of the check of how many weights
    are narrow, `least_fraction` its bound, and `way_out` what to do where it fails.
    """

    weights: int
    finer: frozenset[int]
    held: Held
    quantized: bool
    fused: bool
    fraction: str
    least_fraction: float
    way_out: str

    @property
    def around(self) -> int:
        """The element type of everything outside of the FP32 islands, but for integer weights."""
        return self.held.type

    @property
    def narrow(self) -> bool:
        """Whether anything is narrower than the reference: else there are no islands, casts or emulated roundings."""
        return self.around != FLOAT

    @property
    def weight_types(self) -> frozenset[int]:
        """What weights outside of the islands may have: where a GEMM is not quantised, they are of the type around."""
        return frozenset({self.weights, *self.finer, self.around})

    @property
    def narrow_types(self) -> frozenset[int]:
        """Of the weights that are as narrow as the precision says."""
        return frozenset({self.weights, *self.finer})


_LEAST_FRACTION = 0.01
"""Of the GEMM and convolution weight bytes of an FP16 or BF16 graph, or the weights of a quantised one. Below, the
precision asked for is not the precision delivered: an engine builder that ignores it gives 0."""


def _floats(held: Held, *, fused: bool) -> PrecisionRecord:
    """A graph of floats of one type."""
    return PrecisionRecord(
        weights=held.type,
        finer=frozenset(),
        held=held,
        quantized=False,
        fused=fused,
        fraction="half_weight_fraction",
        least_fraction=0.0 if held.type == FLOAT else _LEAST_FRACTION,
        way_out="build with --precision fp32",
    )


def _codes(weights: int, *finer: int, name: str, fused: bool) -> PrecisionRecord:
    """A graph with GEMMs whose weights are codes of that type, or of `finer` ones; half in between."""
    return PrecisionRecord(
        weights=weights,
        finer=frozenset(finer),
        held=HALF,
        quantized=True,
        fused=fused,
        fraction=f"{name}_weight_fraction",
        least_fraction=_LEAST_FRACTION,
        way_out="lower --budget, or build with fp16",
    )


PRECISIONS: Mapping[Precision, PrecisionRecord] = {
    "fp32": _floats(SINGLE, fused=False),
    "fp16": _floats(HALF, fused=True),
    "bf16": _floats(BRAIN, fused=False),  # ONNX Runtime's CPU provider has no kernels for it
    "int8": _codes(INT8, name="int8", fused=True),
    "fp8": _codes(FLOAT8, INT8, name="fp8", fused=False),  # ONNX Runtime's CPU provider has no kernels for FP8
    "int4": _codes(INT4, INT8, name="int4", fused=False),
    "nvfp4-weights": _codes(FLOAT4, FLOAT8, INT8, name="nvfp4", fused=False),
    "nvfp4": _codes(FLOAT4, FLOAT8, INT8, name="nvfp4", fused=False),
}


HELD: Mapping[int, Held] = {record.held.type: record.held for record in PRECISIONS.values()}
"""Element type -> what it holds, of all types that a graph may be written in."""


def narrow_precisions() -> frozenset[str]:
    """Those that the graph is narrowed for."""
    return frozenset(name for name, record in PRECISIONS.items() if record.narrow)


def quantized_precisions() -> tuple[str, ...]:
    """Those that take the options of calibration."""
    return tuple(name for name, record in PRECISIONS.items() if record.quantized)


def report_key(precision: str) -> str:
    """Its section in report.json, and what keys of its own begin with: letters, digits and underscores alone, as all
    keys there are."""
    return precision.replace("-", "_")
