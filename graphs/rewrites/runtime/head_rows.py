"""Heads [B, H, N, hd] as the rows [B, N, H * hd] that ONNX Runtime's own operators take."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder
from graphs.structure.flow import made_by

KERNEL_TYPES = (np.dtype(np.float32), np.dtype(np.float16))
"""What its operators of attention have kernels for, on a GPU at least; on the CPU it puts casts around half ones."""
HEADS_FIRST = [0, 2, 1, 3]


def view_of_rows(heads: gs.Tensor) -> gs.Tensor | None:
    """The rows [B, N, H * hd] that `heads` is laid out from by a Reshape and a Transpose; None where it is not."""
    parted = _laid_from(heads)
    reshaped = None if parted is None else made_by(parted, "Reshape")
    if parted is None or reshaped is None:
        return None
    rows: gs.Tensor = reshaped.inputs[0]
    if rows.shape is None or len(rows.shape) != 3 or parted.shape is None:
        return None
    _, tokens, count, size = parted.shape
    same = isinstance(tokens, int) and rows.shape[1] == tokens and rows.shape[2] == count * size
    return rows if same else None


def as_rows(build: NodeBuilder, heads: gs.Tensor, role: str) -> gs.Tensor:
    """Rows of `heads`, by as few copies as there can be: none where they were laid out just before."""
    rows = view_of_rows(heads)
    if rows is not None:
        return rows
    batch, count, tokens, size = heads.shape
    parted = _laid_from(heads)
    if parted is None:
        parted = build.op("Transpose", [heads], f"{role}_parted", perm=HEADS_FIRST)
        parted.dtype, parted.shape = heads.dtype, [batch, tokens, count, size]
    made = build.op("Reshape", [parted, build.ints(f"{role}_width", 0, 0, count * size)], f"{role}_rows")
    made.dtype, made.shape = heads.dtype, [batch, tokens, count * size]
    return made


def _laid_from(heads: gs.Tensor) -> gs.Tensor | None:
    """[B, N, H, hd], where a Transpose lays it out as `heads`."""
    laid = made_by(heads, "Transpose")
    return laid.inputs[0] if laid is not None and laid.attrs.get("perm") == HEADS_FIRST else None
