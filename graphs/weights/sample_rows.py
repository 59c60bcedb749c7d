"""How many rows of a GEMM's input belong to one sample, and which of its axes holds the batch.

    [B, N, K]       N tokens                          [B, K]    one row: a condition
    [B, F, N, K]    F * N tokens                      [N, B, K]    N tokens, the batch behind them
    [F*B, N, K]     F * N tokens, frames folded into the batch; [N*B, K] likewise

Shape inference writes products as `16*B`. What does not depend on the batch has no rows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import onnx_graphsurgeon as gs

Size = int | str | None


def sample_rows(activation: gs.Tensor, batch: Size) -> tuple[int, int] | None:
    """Rows of one sample and the axis of the batch; None where the shape does not tell.

    `batch` is the size of the graph's first axis: a name, a number, or None where it has neither.
    """
    shape = activation.shape
    if shape is None or len(shape) < 2:
        return None
    if len(shape) == 2 and (batch is None or shape[0] == batch):
        return 1, 0
    found = _named(shape[:-1], batch) if isinstance(batch, str) else _numbered(shape[:-1], batch)
    return found or _flattened(activation, batch)


def _named(sizes: Sequence[Size], batch: str) -> tuple[int, int] | None:
    """With one axis that counts samples. It is the first, or the second with nothing folded into it."""
    axes = [axis for axis, size in enumerate(sizes) if not isinstance(size, int)]
    if len(axes) != 1 or axes[0] > 1:
        return None
    times = _times(sizes[axes[0]], batch)
    if times is None and axes[0] == 0 and len(sizes) > 1:
        times = 1  # inference gives the batch another name behind a Reshape
    if times is None or (axes[0] == 1 and times != 1):
        return None
    return times * _product(sizes), axes[0]


def _numbered(sizes: Sequence[Size], batch: int | None) -> tuple[int, int] | None:
    if not all(isinstance(size, int) for size in sizes[1:]):
        return None
    if batch is None or (len(sizes) > 1 and not isinstance(sizes[0], int)):
        return _product(sizes[1:]), 0
    if not isinstance(sizes[0], int) or sizes[0] % batch or (len(sizes) == 1 and batch > 1):
        return None
    return _product(sizes) // batch, 0


def _product(sizes: Sequence[Size]) -> int:
    return math.prod(size for size in sizes if isinstance(size, int))


def _times(size: Size, batch: str) -> int | None:
    """`16` of `16*B`, 1 of `B`."""
    if size == batch:
        return 1
    found = re.fullmatch(rf"(?:(\d+)\*{re.escape(batch)}|{re.escape(batch)}\*(\d+))", str(size))
    return int(found[1] or found[2]) if found else None


def _flattened(activation: gs.Tensor, batch: Size) -> tuple[int, int] | None:
    """Of [batch, .., K] that a Reshape flattened for a Gemm."""
    maker = activation.inputs[0] if activation.inputs else None
    before = maker.inputs[0] if maker is not None and maker.op == "Reshape" else None
    if before is None or before.shape is None or len(before.shape) < 3 or before.shape[-1] != activation.shape[-1]:
        return None
    found = sample_rows(before, batch)
    return found if found is not None and found[1] == 0 else None
