"""What the symbolic `dsr` ops mean, in plain numpy: the oracle for graphs that have no PyTorch module.

Written from the definition (arXiv 2605.05206, arXiv 2506.08010), not from the lowering that it judges.
Shapes: B batch, N tokens, R registers, D channels, H MLP width, I listed neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from graphs.errors import ExportError

Array = npt.NDArray[Any]


def replace_outliers(
    x: Array,
    registers: Array,
    choice_weight: Array | None = None,
    gate_weight: Array | None = None,
    gate_bias: Array | None = None,
    *,
    rule: str,
    threshold: float,
    rounds: int,
    choice: str,
    exclude: Sequence[int] = (),
) -> Array:
    """x [B, N, D], registers [R, D] -> [B, N, D] float32; tokens above the threshold are replaced, `rounds` times."""
    out, rows = np.array(x, np.float32), np.asarray(registers, np.float32)
    gate = [np.asarray(w, np.float32) for w in (choice_weight, gate_weight, gate_bias) if w is not None]
    counted = np.ones(out.shape[1], bool)
    counted[list(exclude)] = False
    with np.errstate(all="ignore"):  # NaN and infinity are ordinary inputs here
        for _ in range(rounds if counted.any() else 0):
            norms = np.sqrt(np.square(out).sum(axis=2, dtype=np.float32))  # [B, N]
            limit = _limit(norms[:, counted], rule, np.float32(threshold))  # [B, 1]
            outlier = counted & ((norms > limit) | ~np.isfinite(norms))
            out = np.where(outlier[..., None], _becomes(out, norms, limit, rows, gate, choice), out)
    return out


def shift_register_neurons(
    a: Array, *, neurons: Sequence[int], registers: int, scale: Sequence[float], normal_values: str
) -> Array:
    """a [B, N + R, H] -> the same: each image's signed maximum over the listed neurons moves to the register rows.

    Row 0 keeps its values, as in the released code.
    """
    out = np.array(a, np.float32)
    listed = np.unique(np.asarray(neurons, np.int64))
    values = out[:, :, listed].reshape(len(out), -1)  # [B, (N + R) * I]
    high, low = values.max(axis=1), values.min(axis=1)
    signed = np.where(np.abs(high) > np.abs(low), high, low)  # [B]
    first_register = out.shape[1] - registers
    for i in listed:
        out[:, 1:first_register, i] = _ordinary(out[:, 1:first_register, i], normal_values)
        out[:, first_register:, i] = signed[:, None] * np.asarray(scale, np.float32)
    return out


def _limit(norms: Array, rule: str, value: np.float32) -> Array:
    """[B, n] -> [B, 1]."""
    finite = np.isfinite(norms)
    if rule == "absolute":
        return np.full((len(norms), 1), value)
    if rule == "median":
        ordered = np.sort(np.where(finite, norms, np.float32(np.inf)), axis=1)
        return np.asarray(value * ordered[:, [(norms.shape[1] - 1) // 2]])
    known = [row[keep] if keep.any() else np.zeros(1, np.float32) for row, keep in zip(norms, finite, strict=True)]
    return np.array([[row.mean() + value * row.std()] for row in known], np.float32)


def _becomes(x: Array, norms: Array, limit: Array, rows: Array, gate: list[Array], choice: str) -> Array:
    """What each token would become, [B, N, D]; a token without a finite norm has no direction left."""
    broken = ~np.isfinite(norms)[..., None]
    if choice == "mask":
        return np.zeros_like(x)
    if choice == "clip":
        return np.where(broken, np.float32(0), x * (limit / norms)[..., None])
    if choice == "nearest":
        return np.asarray(rows[np.where(broken[..., 0], 0, _nearest(x, rows))])
    logits = x @ gate[0]
    share = np.exp(logits - logits.max(axis=2, keepdims=True))
    mixture = share / share.sum(axis=2, keepdims=True) @ rows
    strength = 1 / (1 + np.exp(-(x @ gate[1] + gate[2])))
    return np.asarray(np.where(broken, rows[0], x + strength * (mixture - x)), np.float32)


def _nearest(x: Array, rows: Array) -> Array:
    """Index [B, N] of the register with the highest cosine similarity; a zero register fits nothing."""
    similarity = x @ (rows / np.linalg.norm(rows, axis=1, keepdims=True)).T
    return np.asarray(np.where(np.isnan(similarity), -np.inf, similarity).argmax(axis=2))


def _ordinary(values: Array, mode: str) -> Array:
    """One neuron's values on the ordinary rows, [B, n]."""
    if mode == "zero":
        return np.zeros_like(values)
    if mode == "same" or values.shape[1] == 0:
        return values
    mean = values.mean(axis=1, keepdims=True)
    if mode == "mean":
        return np.broadcast_to(mean, values.shape)
    if values.shape[1] < 2:
        return values  # the unbiased deviation of one row is undefined: nothing stands out
    return np.asarray(np.where(values > mean + values.std(axis=1, ddof=1, keepdims=True), mean, values))


DEFINITIONS: Mapping[str, Callable[..., Array]] = {
    "ReplaceOutliers": replace_outliers,
    "ShiftRegisterNeurons": shift_register_neurons,
}
"""Symbolic op type -> its definition: inputs by position, attributes by name."""


def evaluate(node: onnx.NodeProto, inputs: Sequence[Array | None]) -> Array:
    """The output of one `dsr` node. `inputs` are its own, None where an optional one is left out.

    Raises:
        ExportError: an op that this version does not define, or inputs that do not fit together.
    """
    if node.op_type not in DEFINITIONS:
        raise ExportError(f"{node.name} is dsr.{node.op_type}, which has no definition here")
    attributes = {each.name: _value(each) for each in node.attribute}
    try:
        return DEFINITIONS[node.op_type](*inputs, **attributes)
    except (ValueError, IndexError, TypeError) as error:
        shapes = ", ".join("none" if each is None else str(list(each.shape)) for each in inputs)
        message = f"{node.name} (dsr.{node.op_type}) cannot be computed for inputs of the shapes {shapes}: {error}"
        raise ExportError(message, hint="compare its registers, exclude and neurons with its tokens") from error


def _value(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    return value.decode() if isinstance(value, bytes) else value
