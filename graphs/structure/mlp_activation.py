"""The activation of an MLP branch, [batch, N, H]: what its last constant weight multiplies.

Between that weight and the residual Add lie at most a bias, a gate or a layer scale, Reshapes around a Gemm, a norm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphs.rewrite import Miss
from graphs.structure.flow import Flow, describe, producer, source
from graphs.structure.residual_adds import ResidualAdd

NONLINEAR = frozenset(
    {
        "Celu",
        "Elu",
        "Erf",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Mish",
        "PRelu",
        "Relu",
        "Selu",
        "Sigmoid",
        "Softplus",
        "Swish",
        "Tanh",
    }
)


@dataclass(frozen=True, eq=False)
class Activation:
    """`tensor` [batch, N, width] behind the non-linearity; of a gated MLP, the product."""

    tensor: gs.Variable
    width: int


def find_activation(flow: Flow, add: ResidualAdd) -> Activation | Miss:
    """Walks up the branch of `add` to its last weight."""
    tensor = source(add.branch)
    for _ in add.inside:  # no walk is longer
        node = producer(tensor)
        if node is None or not add.holds(node):
            return Miss("no constant weight lies on the branch", add.node.name)
        if node.op in ("MatMul", "Gemm") and flow.has_weight(node):
            return _activation(flow, add, node)
        step = _STEPS.get(node.op)
        following = None if step is None else step(flow, add, node)
        if following is None:
            return Miss(f"{node.op} {node.name} lies between the MLP's last weight and the residual", add.node.name)
        tensor = source(following)
    return Miss("no constant weight lies on the branch", add.node.name)


def _activation(flow: Flow, add: ResidualAdd, gemm: gs.Node) -> Activation | Miss:
    tensor, stream = source(gemm.inputs[0]), add.output.shape
    maker = producer(tensor)
    if maker is not None and maker.op == "Reshape" and not _has_tokens(tensor, stream):
        tensor = maker.inputs[0]
    shape = tensor.shape
    if not _has_tokens(tensor, stream):
        return Miss(f"{gemm.name} reads {describe(shape)}, where [batch, {stream[1]}, H] is wanted", add.node.name)
    before = flow.between(source(add.before), tensor)
    if flow.multiplies_activations(before):
        return Miss(f"{gemm.name} reads attention and MLP with one weight", add.node.name)
    if not any(node.op in NONLINEAR for node in before):
        return Miss(f"no non-linearity lies before {gemm.name}", add.node.name)
    return Activation(tensor, int(shape[2]))


def _has_tokens(tensor: gs.Tensor, stream: tuple[int, ...]) -> bool:
    return tensor.shape is not None and len(tensor.shape) == 3 and tuple(tensor.shape[:2]) == tuple(stream[:2])


def _only_first(flow: Flow, add: ResidualAdd, node: gs.Node) -> gs.Tensor | None:
    return node.inputs[0]


def _scaled(flow: Flow, add: ResidualAdd, node: gs.Node) -> gs.Tensor | None:
    """The operand that comes from the tokens and has their width: the others are gates, scales and biases."""
    found = [tensor for tensor in node.inputs if _is_branch(add, tensor)]
    return found[0] if len(found) == 1 else None


def _summed(flow: Flow, add: ResidualAdd, node: gs.Node) -> gs.Tensor | None:
    """As `_scaled`; where attention and MLP run side by side and are added, the MLP."""
    found = [tensor for tensor in node.inputs if _is_branch(add, tensor)]
    if len(found) > 1:
        found = [t for t in found if not flow.multiplies_activations(flow.between(source(add.before), t))]
    return found[0] if len(found) == 1 else None


def _is_branch(add: ResidualAdd, tensor: gs.Tensor) -> bool:
    maker = producer(tensor)
    return (
        maker is not None
        and add.holds(maker)
        and tensor.shape is not None
        and tensor.shape[-1:] == add.output.shape[-1:]
    )


_STEPS: Mapping[str, Callable[[Flow, ResidualAdd, gs.Node], gs.Tensor | None]] = {
    **dict.fromkeys(["Reshape", "LayerNormalization", "RMSNormalization", "Clip"], _only_first),
    **dict.fromkeys(["Mul", "Sub", "Div"], _scaled),
    "Add": _summed,
}
