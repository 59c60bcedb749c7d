"""Functions near 0 and far out -> ONNX with PyTorch's digits, where the exporter's formulas lose them.

`Log(1 + x)` is 0 for 1e-9 and `Exp(x) - 1` too; `Log(Exp(a) + Exp(b))` is infinite from 89 on, and so is TensorRT's
ReduceLogSumExp, which subtracts no maximum; `Log(Sigmoid(x))` is -inf below -88. What stands here instead:

    log1p(x)      2 atanh(x / (2 + x)), where |x| < 1/2; Log(1 + x) elsewhere
    expm1(x)      tanh(x / 2) (exp(x) + 1)
    logaddexp     max + log1p(exp(-|a - b|)), and log_sigmoid, which is -logaddexp(0, -x), likewise
    logsumexp     max + log(sum(exp(x - max)))
    hypot         max * sqrt(1 + (min / max)^2)
    atan2         atan(min / max) of the magnitudes, turned into the quadrant that the signs say, those of zeros too

Infinities and NaN come out as they do in PyTorch. No operand of a node that is chosen is infinite where its result is
not, so that nothing depends on what a runtime makes of `0 * inf`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from onnx_ir import tensor
from onnxscript import opset20

_aten = torch.ops.aten
op: Any = opset20  # OPSET of `tracing`


def stable_translations() -> dict[Any, Callable[..., Any]]:
    """torch op -> its translation."""
    return {
        _aten.log1p.default: _log1p,
        _aten.expm1.default: _expm1,
        _aten.special_expm1.default: _expm1,
        _aten.elu.default: _elu,
        _aten.celu.default: _celu,
        _aten.selu.default: _selu,
        _aten.logaddexp.default: _logaddexp,
        _aten.logaddexp2.default: _logaddexp2,
        _aten.log_sigmoid.default: _log_sigmoid,
        _aten.logsumexp.default: _logsumexp,
        _aten.xlogy.Tensor: _xlogy,
        _aten.special_xlogy.default: _xlogy,
        _aten.hypot.default: _hypot,
        _aten.atan2.default: _atan2,
    }


def _log1p(x):  # type: ignore[no-untyped-def]
    half = _like(x, 0.5)
    near = op.Less(op.Abs(x), half)
    small = op.Where(near, x, _like(x, 0.0))
    return op.Where(near, _log1p_small(small), op.Log(op.Add(x, _like(x, 1.0))))


def _log1p_small(x: Any) -> Any:
    """For -1/2 < x <= 1."""
    two = _like(x, 2.0)
    return op.Mul(op.Atanh(op.Div(x, op.Add(x, two))), two)


def _expm1(x):  # type: ignore[no-untyped-def]
    return _grown(x)


def _grown(x: Any) -> Any:
    """exp(x) - 1."""
    return op.Mul(op.Tanh(op.Mul(x, _like(x, 0.5))), op.Add(op.Exp(x), _like(x, 1.0)))


def _elu(x, alpha=1.0, scale=1.0, input_scale=1.0):  # type: ignore[no-untyped-def]
    return _bent(x, alpha, scale, input_scale)


def _celu(x, alpha=1.0):  # type: ignore[no-untyped-def]
    return _bent(x, alpha, 1.0, 1.0 / alpha)


def _selu(x):  # type: ignore[no-untyped-def]
    return _bent(x, 1.6732632423543772, 1.0507009873554805, 1.0)


def _bent(x: Any, alpha: float, scale: float, input_scale: float) -> Any:
    """scale * x above 0, and scale * alpha * (exp(input_scale * x) - 1) below."""
    zero = _like(x, 0.0)
    below = _grown(op.Mul(op.Where(op.Greater(x, zero), zero, x), _like(x, input_scale)))
    return op.Where(op.Greater(x, zero), op.Mul(x, _like(x, scale)), op.Mul(below, _like(x, alpha * scale)))


def _logaddexp(a, b):  # type: ignore[no-untyped-def]
    return _added(a, b, 1.0)


def _logaddexp2(a, b):  # type: ignore[no-untyped-def]
    return _added(a, b, math.log(2))


def _added(a: Any, b: Any, unit: float) -> Any:
    """log(base^a + base^b) / log(base), where `unit` is log(base); equal infinities are no distance apart."""
    apart = op.Where(op.Equal(a, b), _like(a, 0.0), op.Abs(op.Sub(a, b)))
    rest = _log1p_small(op.Exp(op.Mul(apart, _like(a, -unit))))
    return op.Add(op.Max(a, b), rest if unit == 1 else op.Div(rest, _like(a, unit)))


def _log_sigmoid(x):  # type: ignore[no-untyped-def]
    rest = _log1p_small(op.Exp(op.Neg(op.Abs(x))))
    return op.Sub(op.Min(x, _like(x, 0.0)), rest)


def _logsumexp(x, dim, keepdim=False):  # type: ignore[no-untyped-def]
    if not x.dtype.is_floating_point():
        x = op.Cast(x, to=1)
    if len(x.shape) == 0:
        return op.Identity(x)
    axes = op.Constant(value_ints=[dim] if isinstance(dim, int) else list(dim))
    most = op.ReduceMax(x, axes, keepdims=1)
    most = op.Where(op.IsInf(most), _like(x, 0.0), most)
    made = op.Add(op.Log(op.ReduceSum(op.Exp(op.Sub(x, most)), axes, keepdims=1)), most)
    return made if keepdim else op.Squeeze(made, axes)


def _xlogy(a, b):  # type: ignore[no-untyped-def]
    zero = _like(a, 0.0)
    nothing = op.And(op.Equal(a, zero), op.Not(op.IsNaN(b)))
    return op.Where(nothing, zero, op.Mul(a, op.Log(b)))


def _hypot(a, b):  # type: ignore[no-untyped-def]
    one = _like(a, 1.0)
    a, b = op.Abs(a), op.Abs(b)
    most, least = op.Max(a, b), op.Min(a, b)
    endless = op.Or(op.IsInf(a), op.IsInf(b))  # which even NaN does not change
    share = op.Div(least, op.Where(op.Equal(most, _like(a, 0.0)), one, most))
    made = op.Mul(most, op.Sqrt(op.Add(op.Mul(share, share), one)))
    return op.Where(endless, _like(a, math.inf), made)


def _atan2(y, x):  # type: ignore[no-untyped-def]
    up, right = op.Abs(y), op.Abs(x)
    most, least = op.Max(up, right), op.Min(up, right)
    share = op.Div(least, op.Where(op.Equal(most, _like(y, 0.0)), _like(y, 1.0), most))
    share = op.Where(op.And(op.IsInf(up), op.IsInf(right)), _like(y, 1.0), share)
    angle = op.Atan(share)
    angle = op.Where(op.Greater(up, right), op.Sub(_like(y, math.pi / 2), angle), angle)
    angle = op.Where(_is_negative(x), op.Sub(_like(y, math.pi), angle), angle)
    return op.Where(_is_negative(y), op.Neg(angle), angle)


def _is_negative(x: Any) -> Any:
    """-0 too, whose reciprocal is -inf."""
    zero = _like(x, 0.0)
    return op.Or(op.Less(x, zero), op.Less(op.Reciprocal(x), zero))


def _like(x: Any, value: float) -> Any:
    return op.CastLike(op.Constant(value=tensor(np.asarray(value))), x)  # folded, once the type of `x` is inferred
