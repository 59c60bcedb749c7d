"""Weights that are stored as codes: FP8 with a scale beside it is read, every other code is refused by name.

A weight is its FP8 value times the scale: one for the tensor, one per output channel, or one per block. Scales by name:
ComfyUI `scale_weight`; compressed-tensors, ModelOpt and fbgemm `weight_scale`; DeepSeek and transformers
`weight_scale_inv`, which multiplies as well, in blocks of 128 x 128.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from dsr_export.checkpoints.contents import StateDict
from dsr_export.errors import ExportError

FP8 = frozenset({torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz})
PLAIN = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
_DEQUANTISE = "dequantise it where its format is known, and save it in float32, float16 or bfloat16"
_MARKS = {
    "absmax": "bitsandbytes",
    "quant_map": "bitsandbytes",
    "SCB": "bitsandbytes",
    "quant_state": "bitsandbytes",
    "qweight": "GPTQ or AWQ",
    "qzeros": "GPTQ or AWQ",
    "weight_packed": "compressed-tensors",
    "weight_zero_point": "compressed-tensors",
    "_packed_params": "PyTorch's quantisation",
    "_weight_qdata": "torchao",
    "_amax": "ModelOpt",
}
"""The last part of a name -> who writes codes that way."""
_RUNTIME = ("input_scale", "scale_input", "comfy_quant")
"""Beside an FP8 weight: for the inputs of FP8 kernels, and no part of the weight."""
_MARKER = "scaled_fp8"
_BLOCK = 128


def decoded(path: Path, state: StateDict, own: Collection[str] = ()) -> tuple[StateDict, dict[str, int]]:
    """`state` with FP8 weights times their scales in float32, and how many had a scale of which name.

    The names in `own` are the model's, whatever they remind of. Raises ExportError for FP8 without a scale that is
    known, and for all other element types that are codes.
    """
    _refuse_codes(path, state, own)
    used: dict[str, int] = {}
    made, gone = dict(state), {name for name in state if name.rpartition(".")[2] == _MARKER}
    for name, tensor in state.items():
        if tensor.dtype not in FP8 or name in gone:
            continue
        scale = _scale_name(path, name, state)
        made[name] = _scaled(path, name, tensor, scale, state[scale])
        kind = scale.rpartition(".")[2]
        used[kind] = used.get(kind, 0) + 1
        stem = name.removesuffix(name.rpartition(".")[2])
        gone |= {scale, *(stem + each for each in _RUNTIME)}
    return {name: tensor for name, tensor in made.items() if name not in gone}, used


def _refuse_codes(path: Path, state: StateDict, own: Collection[str]) -> None:
    for name in state.keys() - set(own):
        marks = [_MARKS[part] for part in name.split(".") if part in _MARKS]
        if marks:
            raise ExportError(f"{path} is quantised by {marks[0]}: it holds '{name}'", hint=_DEQUANTISE)
    for name, tensor in state.items():
        kind = tensor.dtype
        if kind.is_floating_point and kind not in PLAIN | FP8 and "scale" not in name.rpartition(".")[2]:
            raise ExportError(f"{path}: '{name}' holds {_said(kind)} codes", hint=_DEQUANTISE)


def _scale_name(path: Path, name: str, state: StateDict) -> str:
    """The one scale of the weight `name`, next to it."""
    stem, leaf = name[: len(name) - len(name.rpartition(".")[2])], name.rpartition(".")[2]
    found = [key for key in (f"{stem}scale_{leaf}", f"{name}_scale", f"{name}_scale_inv") if key in state]
    if len(found) == 1:
        return found[0]
    what = f"has several scales, {' and '.join(found)}" if found else "has no scale beside it that is known"
    raise ExportError(f"{path}: '{name}' holds {_said(state[name].dtype)} codes and {what}", hint=_DEQUANTISE)


def _scaled(path: Path, name: str, codes: Tensor, scale_name: str, scale: Tensor) -> Tensor:
    if not scale.is_floating_point() or scale.dtype in FP8:
        raise ExportError(f"{path}: the scale '{scale_name}' is {_said(scale.dtype)}", hint=_DEQUANTISE)
    values = scale.float()
    if not values.isfinite().all() or (values < 0).any():
        raise ExportError(f"{path}: the scale '{scale_name}' is negative or not finite", hint=_DEQUANTISE)
    spread = _spread(values, codes.shape)
    if spread is None:
        found = f"{list(scale.shape)} for a weight {list(codes.shape)}"
        raise ExportError(f"{path}: the scale '{scale_name}' has the shape {found}", hint=_DEQUANTISE)
    return codes.float() * spread


def _spread(scale: Tensor, shape: torch.Size) -> Tensor | None:
    """`scale` as broadcast over a weight of `shape`; None where its shape does not say how."""
    if scale.numel() == 1:
        return scale.reshape(())
    rows = shape[0] if shape else 0
    if scale.numel() == rows and scale.shape[0] == rows:  # per output channel
        return scale.reshape(rows, *[1] * (len(shape) - 1))
    if scale.ndim != 2 or len(shape) != 2:
        return None
    block = _block(tuple(scale.shape), tuple(shape))
    if block is None:
        return None
    wide = scale.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    return wide[: shape[0], : shape[1]]


def _block(grid: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Rows and columns that share a scale: square blocks of a power of two, or groups within each row."""
    if grid[0] == shape[0] and shape[1] % grid[1] == 0:
        return 1, shape[1] // grid[1]
    sides = [_BLOCK, *(2**i for i in range(1, 12))]
    fitting = [side for side in sides if all(math.ceil(n / side) == g for n, g in zip(shape, grid, strict=True))]
    return (fitting[0], fitting[0]) if fitting else None


def _said(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")
