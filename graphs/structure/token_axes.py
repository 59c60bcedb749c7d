"""Where the token axis goes: for each op, the axes of its outputs that hold the tokens, given those of its inputs.

The tokens are followed while N is the old number, and an op that would not take another one says so: a table with a row
per token, a weight that mixes them, an op without a rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx_graphsurgeon as gs

from graphs.structure import token_moves
from graphs.structure.flow import axis_of, describe
from graphs.structure.norm_reads import reduced_axes
from graphs.structure.token_axis import CannotFollow, Marks, TokenAxis, without


def output_marks(node: gs.Node, marks: Sequence[Marks], tokens: int) -> list[Marks]:
    """The token axes of every output of `node`, given those of its inputs, at least one of which has some.

    Raises:
        CannotFollow: with a reason that reads on from the node's name.
    """
    rule = _RULES.get(node.op)
    if rule is None:
        raise CannotFollow(f"there is no rule for what {node.op} does with more tokens")
    if any(tensor.shape is None for tensor in (*node.inputs, *node.outputs) if not tensor.is_empty()):
        raise CannotFollow("the shape of what it reads or makes cannot be inferred")
    made = rule(node, marks, tokens)
    return made if isinstance(made, list) else [made] * len(node.outputs)


def _elementwise(node: gs.Node, marks: Sequence[Marks], tokens: int) -> Marks:
    rank = len(node.outputs[0].shape)
    return _broadcast(node.inputs, marks, rank, rank)


def _broadcast(inputs: Sequence[gs.Tensor], marks: Sequence[Marks], rank: int, leading: int) -> dict[int, TokenAxis]:
    """The marks on the first `leading` of `rank` axes, to which the inputs are aligned from the right."""
    found: dict[int, TokenAxis] = {}
    for tensor, its in zip(inputs, marks, strict=True):
        for axis, mark in its.items():
            at = axis + rank - len(tensor.shape)
            if at < leading and found.setdefault(at, mark) != mark:
                raise CannotFollow("its operands hold the tokens in different order")
    for tensor, its in zip(inputs, marks, strict=True):
        for at in found:
            axis = at - rank + (0 if tensor.is_empty() else len(tensor.shape))
            if axis >= 0 and axis not in its and tensor.shape[axis] != 1:
                raise CannotFollow(
                    f"'{tensor.name}' {describe(tensor.shape)} has a row for each token, and none for more"
                )
    return found


def _expand(node: gs.Node, marks: Sequence[Marks], tokens: int) -> Marks:
    rank = len(node.outputs[0].shape)
    return _broadcast(node.inputs[:1], marks[:1], rank, rank)


def _matmul(node: gs.Node, marks: Sequence[Marks], tokens: int) -> Marks:
    (left, right), rank = (len(tensor.shape) for tensor in node.inputs), len(node.outputs[0].shape)
    if min(left, right) < 2:
        raise CannotFollow("it multiplies by a vector")
    if marks[0].get(left - 1) != marks[1].get(right - 2):
        raise CannotFollow("it mixes the tokens by a weight of fixed size")
    found = _broadcast(node.inputs, marks, rank, rank - 2)
    if left - 2 in marks[0]:
        found[rank - 2] = marks[0][left - 2]
    if right - 1 in marks[1]:
        found[rank - 1] = marks[1][right - 1]
    return found


def _gemm(node: gs.Node, marks: Sequence[Marks], tokens: int) -> Marks:
    row = int(node.attrs.get("transA", 0))
    if list(marks[0]) != [row] or any(marks[1:]):
        raise CannotFollow("it mixes the tokens by a weight of fixed size")
    if len(node.inputs) > 2 and len(node.inputs[2].shape) == 2 and node.inputs[2].shape[0] != 1:
        raise CannotFollow(f"its bias {describe(node.inputs[2].shape)} has a row for each token")
    return {0: marks[0][row]}


def _concat(node: gs.Node, marks: Sequence[Marks], tokens: int) -> Marks:
    rank = len(node.outputs[0].shape)
    axis = axis_of(node, rank, 0)
    along = any(axis in its for its in marks)
    others = _broadcast(node.inputs, [{at: m for at, m in its.items() if at != axis} for its in marks], rank, rank)
    return token_moves.concat(node, marks, tokens, others) if along else others


def _norm(node: gs.Node, marks: Sequence[Marks], tokens: int) -> Marks:
    if max(marks[0]) >= axis_of(node, len(node.inputs[0].shape)):
        raise CannotFollow("it takes its statistics over the tokens")
    return marks[0]


def _reduce(node: gs.Node, marks: Sequence[Marks], tokens: int) -> Marks:
    axes = reduced_axes(node)
    if any(axis in marks[0] for axis in axes):
        raise CannotFollow("it takes its statistics over the tokens")
    return marks[0] if node.attrs.get("keepdims", 1) else without(marks[0], axes)


def _shape(node: gs.Node, marks: Sequence[Marks], tokens: int) -> Marks:
    return {}  # its values follow by themselves


def _ops(names: str, *, prefix: str = "") -> list[str]:
    return [prefix + name for name in names.split()]


_Rule = Callable[[gs.Node, Sequence[Marks], int], Marks | list[Marks]]
_UNARY = _ops(
    "Abs Cast Ceil Celu Clip Cos Dropout Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu "
    "Log Mish Neg Not Reciprocal Relu Round Selu Sigmoid Sign Sin Softplus Softsign Sqrt Swish Tanh"
)
_BROADCASTING = _ops(
    "Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or PRelu Pow Sub Sum Where Xor"
)
_REDUCING = _ops("L1 L2 LogSumExp Max Mean Min Prod Sum SumSquare", prefix="Reduce")
_RULES: Mapping[str, _Rule] = {
    **dict.fromkeys([*_UNARY, *_BROADCASTING], _elementwise),
    **dict.fromkeys(_REDUCING, _reduce),
    **dict.fromkeys(["LayerNormalization", "RMSNormalization"], _norm),
    **dict.fromkeys(["Reshape", "Flatten"], token_moves.reshape),
    **dict.fromkeys(["Shape", "Size"], _shape),
    "Expand": _expand,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Transpose": token_moves.transpose,
    "Softmax": lambda node, marks, tokens: marks[0],  # over the tokens it is attention, which takes any number
    "LogSoftmax": lambda node, marks, tokens: marks[0],
    "Split": token_moves.split,
    "Concat": _concat,
    "Gather": token_moves.gather,
    "Slice": token_moves.slice,
    "Squeeze": token_moves.squeeze,
    "Unsqueeze": token_moves.unsqueeze,
}
