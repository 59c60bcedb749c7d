"""Widths that integer kernels like: zero channels for a gated MLP whose hidden width is no multiple of 16.

    W12 [D, 2H], b12 [2H], W3 [H, D]  ->  [D, 2(H + e)], [2(H + e)], [H + e, D], all new values 0

Exact: `silu(0) * 0` meets zero rows. Released widths are 2730 (rae-dit-l) and 5461 (the wide head).
Constraints: `w3(silu(gate) * value)` with gate and value the halves of one Split, whose input is `x W12 + b12`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from graphs.names import changed_name
from graphs.outside_readers import outside_readers
from graphs.structure.flow import made_by
from graphs.weights.gemms import WeightGemm, weight_gemms
from graphs.weights.stored import StoredValues

Array = npt.NDArray[Any]
MULTIPLE = 16


@dataclass(frozen=True)
class GatedMlp:
    """The nodes of one: `up` makes both halves, `bias` is added to them, `split` parts them."""

    up: gs.Node
    bias: gs.Node
    split: gs.Node
    down: WeightGemm

    @property
    def missing(self) -> int:
        """Channels short of a multiple of 16."""
        return -self.down.in_features % MULTIPLE


def pad_gated_mlps(graph: gs.Graph) -> list[str]:
    """Widens each gated MLP that needs it, in place; returns the names of their second GEMMs. Needs inferred shapes."""
    with outside_readers(graph):
        found = [mlp for gemm in weight_gemms(graph) if (mlp := _gated_mlp(gemm)) is not None and mlp.missing]
    for mlp in found:
        _widen(mlp)
    return [mlp.down.name for mlp in found]


def _gated_mlp(down: WeightGemm) -> GatedMlp | None:
    """The MLP that ends in `down`, or None."""
    product = made_by(down.activation, "Mul")
    if product is None or down.transposed:
        return None
    splits = [node for tensor in product.inputs if (node := _behind_activation(tensor)) is not None]
    if len(splits) != 2 or splits[0] is not splits[1]:
        return None
    split = splits[0]
    bias = made_by(split.inputs[0], "Add")
    up = None if bias is None else next((n for t in bias.inputs if (n := made_by(t, "MatMul")) is not None), None)
    if bias is None or up is None or len(split.outputs) != 2 or len(split.inputs) > 1:
        return None
    constants = [tensor for node in (bias, up) for tensor in node.inputs if isinstance(tensor, gs.Constant)]
    mlp = GatedMlp(up, bias, split, down)
    return mlp if len(constants) == 2 and _is_closed(mlp) else None


def _is_closed(mlp: GatedMlp) -> bool:
    """Whether nothing but the MLP itself reads what lies between its GEMMs, whose width changes."""
    pending, own = [mlp.up], {"Add", "Split", "Sigmoid", "Mul"}
    while pending:
        readers = [each for tensor in pending.pop().outputs for each in tensor.outputs if each is not mlp.down.node]
        if any(reader.op not in own for reader in readers):
            return False
        pending += readers
    return True


def _behind_activation(tensor: gs.Tensor) -> gs.Node | None:
    """The Split that `tensor`, or what SiLU (`x * sigmoid(x)`) makes it of, comes from."""
    split = made_by(tensor, "Split")
    if split is not None:
        return split
    product = made_by(tensor, "Mul")
    if product is None:
        return None
    plain = next((each for each in product.inputs if made_by(each, "Split") is not None), None)
    gated = any((node := made_by(each, "Sigmoid")) is not None and node.inputs[0] is plain for each in product.inputs)
    return made_by(plain, "Split") if plain is not None and gated else None


def _widen(mlp: GatedMlp) -> None:
    extra, width = mlp.missing, mlp.down.in_features
    for node in (mlp.up, mlp.bias):
        index = next(i for i, tensor in enumerate(node.inputs) if isinstance(tensor, gs.Constant))
        values = _values(node.inputs[index])
        halves = [np.pad(half, [(0, 0)] * (half.ndim - 1) + [(0, extra)]) for half in np.split(values, 2, axis=-1)]
        node.inputs[index] = gs.Constant(changed_name("pad", node.name), np.concatenate(halves, axis=-1))
    down = _values(mlp.down.node.inputs[1])
    mlp.down.node.inputs[1] = gs.Constant(changed_name("pad", mlp.down.node.name), np.pad(down, [(0, extra), (0, 0)]))
    _reshape_between(mlp, width, extra)


def _values(constant: gs.Constant) -> Array:
    stored = constant._values
    return np.asarray(stored.load() if isinstance(stored, StoredValues) else constant.values)


def _reshape_between(mlp: GatedMlp, width: int, extra: int) -> None:
    """The recorded shapes of everything from the first GEMM to the second."""
    pending, end = [mlp.up], mlp.down.node
    while pending:
        node = pending.pop()
        for tensor in node.outputs:
            if tensor.shape is not None and tensor.shape[-1] in (width, 2 * width):
                tensor.shape = (*tensor.shape[:-1], tensor.shape[-1] + extra * (tensor.shape[-1] // width))
                pending += [reader for reader in tensor.outputs if reader is not end]
