"""NVFP4 in a graph: codes of E2M1, and for each 16 of them a scale in E4M3, all times one number for the whole tensor.

    weight      DequantizeLinear(codes, DequantizeLinear(scales, unit), block_size=16)
    activation  TRT_FP4DynamicQuantize(x, unit) -> codes and scales -> the same

The scales of an activation are taken from the data, each block's largest magnitude over 6. ONNX has no operator that
does so, and TensorRT has one of its own. Source: TensorRT's documentation of `IDynamicQuantizeLayer`.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder
from graphs.quantize.formats import FP4, FP8
from graphs.stage_specs import DYNAMIC_FOUR_BIT, ENGINE_DOMAIN

BLOCK = 16
MOST_AXES = 3  # of what TensorRT's quantiser takes


def four_bit_values(build: NodeBuilder, x: gs.Tensor, unit: float) -> gs.Variable:
    """What the codes of `x` [.., K] stand for; K is a multiple of 16, `unit` a power of two that FP16 holds.

    `x` has two axes or three."""
    shape = None if x.shape is None else list(x.shape)
    whole = build.constant("step", np.array(unit, np.float32))
    codes, scales = build.ops(
        DYNAMIC_FOUR_BIT, [x, whole], "codes", outputs=2, axis=-1, block_size=BLOCK, scale_type=FP8.type
    )
    codes.inputs[0].domain = ENGINE_DOMAIN
    codes.dtype, codes.shape = FP4.dtype, shape
    scales.dtype = FP8.dtype
    scales.shape = None if shape is None else [*shape[:-1], shape[-1] // BLOCK]
    return _dequantized(build, codes, scales, unit, "values", axis=-1)


def four_bit_weight(build: NodeBuilder, codes: gs.Tensor, scales: np.ndarray, unit: float) -> gs.Variable:
    """The weight [K, N] of its codes, for `scales` [K / 16, N] which are numbers of FP8 times `unit`."""
    stored = build.constant("weight_steps", FP8.codes(scales / np.float32(unit)))
    return _dequantized(build, codes, stored, unit, "dequantized_weight", axis=0)


def _dequantized(
    build: NodeBuilder, codes: gs.Tensor, scales: gs.Tensor, unit: float, role: str, axis: int
) -> gs.Variable:
    whole = build.constant(f"{role}_unit", np.array(unit, np.float32))
    steps = build.op("DequantizeLinear", [scales, whole], f"{role}_steps")
    return build.op("DequantizeLinear", [codes, steps], role, axis=axis, block_size=BLOCK)
