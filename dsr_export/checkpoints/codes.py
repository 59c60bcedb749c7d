"""Weights that are stored as codes: FP8 with a scale beside it is read, every other code is refused by name.

A weight is its FP8 value times the scale: one for the tensor, one per output channel, or one per block. Scales by name:
ComfyUI `scale_weight`; compressed-tensors, ModelOpt and fbgemm `weight_scale`; DeepSeek and transformers
`weight_scale_inv`, which multiplies as well, in blocks of 128 x 128; DeepSeek's own converter `scale`.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

from torch import Size, Tensor

from dsr_export.checkpoints.contents import StateDict
from dsr_export.checkpoints.quantised_formats import COMFY, DEQUANTISE, FP8, refuse_codes, said
from dsr_export.errors import ExportError

_RUNTIME = ("input_scale", "scale_input", "input_scale_ub", "act_scale", "activation_scale", "activation_scale_inv")
"""Beside an FP8 weight, for the inputs of FP8 kernels, and no part of the weight."""
_MARKER = "scaled_fp8"
_BLOCK = 128
_SHOWN = 3


def decoded(path: Path, state: StateDict, own: Collection[str] = ()) -> tuple[StateDict, dict[str, int]]:
    """`state` with FP8 weights times their scales in float32, and how many had a scale of which name.

    The names in `own` are the model's, whatever they remind of. Raises ExportError for FP8 without a scale that is
    known, and for all other element types that are codes.
    """
    refuse_codes(path, state, own)
    used: dict[str, int] = {}
    made, markers = dict(state), [name for name in state if name.rpartition(".")[2] == _MARKER]
    gone = set(markers)
    for name, tensor in state.items():
        if tensor.dtype not in FP8 or name in gone:
            continue
        scale = _scale_name(path, name, state, own)
        made[name] = _scaled(path, name, tensor, scale, state[scale])
        kind = scale.rpartition(".")[2]
        used[kind] = used.get(kind, 0) + 1
        stem = name.removesuffix(name.rpartition(".")[2])
        gone |= {scale, *(stem + each for each in (*_RUNTIME, COMFY))} - set(own)
    if markers and not used:
        hint = "if its weights are multiplied by their scales already, remove that entry"
        raise ExportError(f"{path} is marked as '{markers[0]}', and holds no FP8 weight", hint=hint)
    return {name: tensor for name, tensor in made.items() if name not in gone}, used


def _scale_name(path: Path, name: str, state: StateDict, own: Collection[str]) -> str:
    """The one scale of the weight `name`, next to it."""
    stem, leaf = name[: len(name) - len(name.rpartition(".")[2])], name.rpartition(".")[2]
    known = [f"{stem}scale_{leaf}", f"{name}_scale", f"{name}_scale_inv"]
    known += [f"{stem}scale"] if leaf == "weight" else []
    found = [key for key in known if key in state and key not in own]
    if len(found) == 1:
        return found[0]
    near = sorted(key for key in state if key.startswith(stem) and key != name and key not in own)[:_SHOWN]
    beside = f"; beside it: {', '.join(near)}" if near else ""
    what = f"has several scales, {' and '.join(found)}" if found else f"has no scale beside it that is known{beside}"
    raise ExportError(f"{path}: '{name}' holds {said(state[name].dtype)} codes and {what}", hint=DEQUANTISE)


def _scaled(path: Path, name: str, codes: Tensor, scale_name: str, scale: Tensor) -> Tensor:
    if not scale.is_floating_point() or scale.dtype in FP8:
        raise ExportError(f"{path}: the scale '{scale_name}' is {said(scale.dtype)}", hint=DEQUANTISE)
    if said(scale.dtype) == "float8_e8m0fnu" and scale.numel() > 1 and scale.shape[0] == codes.shape[0]:
        what = "is one of MXFP8, of which the file does not say how it lies in memory"  # often swizzled
        raise ExportError(f"{path}: the scale '{scale_name}' {what}", hint=DEQUANTISE)
    values = scale.float()
    if not values.isfinite().all() or (values < 0).any():
        raise ExportError(f"{path}: the scale '{scale_name}' is negative or not finite", hint=DEQUANTISE)
    spread = _spread(values, codes.shape)
    if spread is None:
        found = f"{list(scale.shape)} for a weight {list(codes.shape)}"
        raise ExportError(f"{path}: the scale '{scale_name}' has the shape {found}", hint=DEQUANTISE)
    return codes.float() * spread


def _spread(scale: Tensor, shape: Size) -> Tensor | None:
    """`scale` as broadcast over a weight of `shape`; None where its shape does not say how."""
    if scale.numel() == 1:
        return scale.reshape(())
    rows = shape[0] if shape else 0
    if scale.numel() == rows and scale.shape[0] == rows:  # per output channel
        return scale.reshape(rows, *[1] * (len(shape) - 1))
    if scale.ndim == 3 and scale.shape[2] == 1:  # groups within each row, as musubi-tuner has them
        scale = scale.squeeze(2)
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
