"""scaled_dot_product_attention -> ONNX with PyTorch's decision for every mask, rows with nothing to attend to included.

PyTorch's softmax is safe here: a row whose scores are all -inf gets weights of 0, whether a boolean or a float mask
made them so (`_safe_softmax` in torch/_decomp); a row of finite scores, however low, is a softmax like any other. The
exporter writes finfo.min for -inf and zeroes every NaN: another answer in both cases.

    before  Softmax(q k^T + mask) v
    after   (Softmax(q k^T + mask') v) * live

`live` is 0 for a row that the mask closes and else 1; in such a row `mask'` is 0, so that no runtime, whatever it
fuses, meets a softmax over nothing. NaN in q, k or v stays NaN, as it does in PyTorch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from onnx_ir import DataType, tensor
from onnxscript.function_libs.torch_lib.ops.nn import aten_scaled_dot_product_attention
from onnxscript.values import Opset

LOWEST = -math.inf


def attention_translation(op: Opset) -> Any:
    """The translation of `aten.scaled_dot_product_attention` with operators of `op`."""

    def attention(  # type: ignore[no-untyped-def]
        query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
    ):
        """query [..., L, E], key [..., S, E], value [..., S, V], mask broadcast to [..., L, S] -> [..., L, V]."""
        if dropout_p:
            raise ValueError(f"attention with dropout_p={dropout_p} is random; call it with 0.0 in eval mode")
        if attn_mask is None and not is_causal and len(query.shape) == 4:
            return aten_scaled_dot_product_attention(query, key, value, scale=scale, enable_gqa=enable_gqa)
        causal = _causal(query, key) if is_causal else None
        if enable_gqa:
            key, value = (_repeated(op, each, heads=query.shape[-3]) for each in (key, value))
        rank = len(query.shape)
        keys = op.Transpose(key, perm=[*range(rank - 2), rank - 1, rank - 2])
        scores = op.MatMul(op.Mul(query, _float(op, _scale(query, scale))), keys)
        if attn_mask is None:
            scores = scores if causal is None else op.Add(scores, _added(op, causal))
            return op.MatMul(op.Softmax(scores, axis=-1), value)
        opened = _opened_bool if attn_mask.dtype == DataType.BOOL else _opened_float
        mask, live = opened(op, attn_mask, None if causal is None else op.Constant(value=tensor(causal)))
        return op.Mul(op.MatMul(op.Softmax(op.Add(scores, mask), axis=-1), value), live)

    return attention


def _opened_bool(op: Opset, mask: Any, causal: Any) -> tuple[Any, Any]:
    """A boolean mask, true where a key may be seen, as what is added to the scores; and which rows live."""
    seen = mask if causal is None else op.And(mask, causal)
    live = _reduced(op, "ReduceMax", op.Cast(seen, to=DataType.FLOAT))
    fill = op.Where(op.Cast(live, to=DataType.BOOL), _float(op, LOWEST), _float(op, 0.0))
    return op.Where(seen, _float(op, 0.0), fill), live


def _opened_float(op: Opset, mask: Any, causal: Any) -> tuple[Any, Any]:
    """The same for a float mask, whose rows are closed where all of them is -inf."""
    if causal is not None:
        mask = op.Where(causal, mask, _float(op, LOWEST))
    closed = op.Cast(op.Equal(mask, _float(op, LOWEST)), to=DataType.FLOAT)
    dead = _reduced(op, "ReduceMin", closed)
    opened = op.Where(op.Cast(dead, to=DataType.BOOL), _float(op, 0.0), mask)
    return opened, op.Sub(_float(op, 1.0), dead)


def _reduced(op: Opset, op_type: str, x: Any) -> Any:
    return getattr(op, op_type)(x, op.Constant(value_ints=[-1]), keepdims=1)


def _float(op: Opset, value: float) -> Any:
    return op.Constant(value=tensor(np.asarray(value, np.float32)))


def _scale(query: Any, scale: float | None) -> float:
    return 1 / math.sqrt(query.shape[-1]) if scale is None else scale


def _causal(query: Any, key: Any) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Row i sees the keys up to i, counted from the first, however many there are; so none is without any."""
    return np.tri(int(query.shape[-2]), int(key.shape[-2]), dtype=np.bool_)


def _added(op: Opset, seen: np.ndarray[Any, np.dtype[np.bool_]]) -> Any:
    return op.Constant(value=tensor(np.where(seen, 0, LOWEST).astype(np.float32)))


def _repeated(op: Opset, heads_of: Any, *, heads: int) -> Any:
    """[..., Hkv, S, E] -> [..., H, S, E]: each of its heads serves as many queries' heads, one after the other."""
    *_, own, rows, width = heads_of.shape
    if own == heads:
        return heads_of
    rank = len(heads_of.shape)
    apart = op.Unsqueeze(heads_of, op.Constant(value_ints=[rank - 2]))
    times = op.Constant(value_ints=[*[1] * (rank - 2), int(heads) // int(own), 1, 1])
    shape = op.Constant(value_ints=[*[0] * (rank - 3), int(heads), int(rows), int(width)])
    return op.Reshape(op.Expand(apart, times), shape)
