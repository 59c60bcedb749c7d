"""Refuses weights in formats of codes that are not read here, each by the name of who writes them so."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsr_export.errors import ExportError

FP8 = frozenset({torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz})
PLAIN = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
DEQUANTISE = "dequantise it where its format is known, and save it in float32, float16 or bfloat16"
COMFY = "comfy_quant"
"""ComfyUI's description of a layer: JSON in a tensor of bytes."""
_COMFY_READ = {"format", "full_precision_matrix_mult"}
_MARKS = {
    "absmax": "bitsandbytes",
    "quant_map": "bitsandbytes",
    "SCB": "bitsandbytes",
    "quant_state": "bitsandbytes",
    "qweight": "GPTQ or AWQ",
    "qzeros": "GPTQ or AWQ",
    "weight_packed": "compressed-tensors",
    "weight_zero_point": "compressed-tensors",
    "weight_global_scale": "compressed-tensors (NVFP4)",
    "weight_scale_2": "ModelOpt (NVFP4)",
    "_amax": "ModelOpt",
    "_packed_params": "PyTorch's quantisation",
    "_weight_qdata": "torchao",
    "_data": "quanto",
    "W_q": "HQQ",
    "weight_scales": "EETQ",
    "wscales": "SVDQuant",
    "codebooks": "AQLM",
}
"""A part of a name -> who writes codes that way."""
_SCALES = ("weight_scale", "weight_scale_inv", "scale_weight")


def refuse_codes(path: Path, state: Mapping[str, Tensor], own: Collection[str]) -> None:
    """Raises ExportError, naming a tensor, for all but plain weights and FP8. Names in `own` are the model's."""
    for name in sorted(state.keys() - set(own)):
        leaf = name.rpartition(".")[2]
        marks = [_MARKS[part] for part in name.split(".") if part in _MARKS]
        if marks:
            raise ExportError(f"{path} is quantised by {marks[0]}: it holds '{name}'", hint=DEQUANTISE)
        if leaf == COMFY:
            _check_description(path, name, state[name])
        beside = state.get(name.removesuffix(leaf) + "weight")
        if leaf in _SCALES and beside is not None and beside.dtype not in FP8:
            what = f"'{name}' stands beside a weight of {said(beside.dtype)}; only FP8 is read with its scale"
            raise ExportError(f"{path}: {what}", hint=DEQUANTISE)
    for name, tensor in state.items():
        kind = tensor.dtype
        if kind.is_floating_point and kind not in PLAIN | FP8 and "scale" not in name.rpartition(".")[2]:
            raise ExportError(f"{path}: '{name}' holds {said(kind)} codes", hint=DEQUANTISE)


def said(kind: torch.dtype) -> str:
    """As messages have it."""
    return str(kind).removeprefix("torch.")


def _check_description(path: Path, name: str, tensor: Tensor) -> None:
    """A layer may be rotated or packed: only FP8 of which nothing else is said is a value times a scale."""
    found: Any = None
    if tensor.dtype == torch.uint8 and tensor.numel() <= 4096:
        try:
            found = json.loads(bytes(tensor.flatten().tolist()))
        except (ValueError, RecursionError):
            found = None
    entries = found if isinstance(found, dict) else {}
    if not str(entries.get("format")).startswith("float8_e") or not entries.keys() <= _COMFY_READ:
        told = json.dumps(found)[:100]
        raise ExportError(f"{path} is quantised by ComfyUI: '{name}' says {told}", hint=DEQUANTISE)
