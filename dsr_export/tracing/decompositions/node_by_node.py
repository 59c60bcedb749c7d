"""A program's few ops that the exporter has no translation for, spelt out where they stand.

torch.onnx.export traces a program once more to decompose it, on symbolic sizes, which takes longer than everything else
in an export. What most transformers are made of needs none of that: of their ops a handful have other names
afterwards. Programs that hold any other op than those listed here are left to torch.

Source: what `ExportedProgram.run_decompositions` makes of each of these ops; the tests compare both ways.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import SymInt, Tensor, fx
from torch.export import ExportedProgram

_aten = torch.ops.aten
_dsr = torch.ops.dsr
_KEPT = frozenset(
    {
        operator.getitem,
        _aten._assert_tensor_metadata.default,
        _aten._to_copy.default,
        _aten._unsafe_view.default,
        _aten.add.Tensor,
        _aten.cat.default,
        _aten.clone.default,
        _aten.arange.default,
        _aten.arange.start,
        _aten.conv2d.default,
        _aten.cos.default,
        _aten.div.Tensor,
        _aten.einsum.default,
        _aten.embedding.default,
        _aten.exp.default,
        _aten.expand.default,
        _aten.gelu.default,
        _aten.layer_norm.default,
        _aten.linear.default,
        _aten.matmul.default,
        _aten.mean.dim,
        _aten.mul.Tensor,
        _aten.neg.default,
        _aten.new_zeros.default,
        _aten.permute.default,
        _aten.pow.Tensor_Scalar,
        _aten.rsqrt.default,
        _aten.scaled_dot_product_attention.default,
        _aten.select.int,
        _aten.sigmoid.default,
        _aten.silu.default,
        _aten.sin.default,
        _aten.slice.Tensor,
        _aten.split.Tensor,
        _aten.split_with_sizes.default,
        _aten.squeeze.dim,
        _aten.stack.default,
        _aten.sub.Tensor,
        _aten.sym_size.int,
        _aten.tanh.default,
        _aten.transpose.int,
        _aten.type_as.default,
        _aten.unbind.int,
        _aten.unsqueeze.default,
        _aten.view.default,
        _dsr.replace_outliers.default,
        _dsr.shift_register_neurons.default,
    }
)
"""Ops that decomposing leaves as they are."""


@dataclass(frozen=True)
class _Form:
    """`op(source, *arguments)`, or `source` itself where there is no op; `shape` is that of `arguments` with sizes."""

    source: fx.Node
    op: Any = None
    arguments: tuple[Any, ...] = ()
    shape: Sequence[Any] = ()


def _view(node: fx.Node) -> _Form | None:
    return _reshaped(node, node.args[1])


def _reshape(node: fx.Node) -> _Form | None:
    return _Form(_source(node)) if _has_that_shape(node) else _view(node)


def _known_shape(node: fx.Node) -> _Form | None:
    shape = list(node.meta["val"].shape)
    return _Form(_source(node)) if _has_that_shape(node) else _reshaped(node, shape, shape)


def _reshaped(node: fx.Node, shape: Any, sizes: Sequence[Any] = ()) -> _Form | None:
    """Of any memory: a view may follow what was made contiguous. A size of 0 would be taken for the one before."""
    empty = any(size == 0 for size in node.meta["val"].shape if not isinstance(size, SymInt))
    return None if empty else _Form(_source(node), _aten.reshape.default, (shape,), sizes)


def _has_that_shape(node: fx.Node) -> bool:
    before, after = (list(map(str, each.meta["val"].shape)) for each in (_source(node), node))
    return before == after


def _split(node: fx.Node) -> _Form | None:
    _, count, *rest = node.args
    axis: Any = rest[0] if rest else node.kwargs.get("dim", 0)
    size = _source(node).meta["val"].shape[axis]
    if isinstance(size, SymInt) or not isinstance(count, int) or size == 0:  # of nothing a chunk is `count` empty parts
        return None
    return _Form(_source(node), _aten.split.Tensor, (-(-size // count), axis))


def _power(node: fx.Node) -> _Form:
    return _Form(_source(node), _aten.pow.Tensor_Scalar, (2,))


def _same_type(node: fx.Node) -> _Form | None:
    """`x.float()` of what is FP32 already; a true conversion is torch's to write."""
    before, after = (each.meta["val"] for each in (_source(node), node))
    return _Form(_source(node)) if before.dtype == after.dtype and before.device == after.device else None


def _contiguous(node: fx.Node) -> _Form:
    copies = not _source(node).meta["val"].is_contiguous()
    return _Form(_source(node), _aten.clone.default if copies else None)


def _not_training(node: fx.Node) -> _Form | None:
    trains = node.args[2] if len(node.args) > 2 else node.kwargs.get("train")
    return None if trains else _Form(_source(node))


def _source(node: fx.Node) -> fx.Node:
    source = node.args[0] if node.args else node.kwargs["self"]
    assert isinstance(source, fx.Node)
    return source


_FORMS: dict[Any, Callable[[fx.Node], _Form | None]] = {
    _aten.chunk.default: _split,
    _aten.contiguous.default: _contiguous,
    _aten.dropout.default: _not_training,
    _aten.flatten.using_ints: _known_shape,
    _aten.reshape.default: _reshape,
    _aten.square.default: _power,
    _aten.to.device: _same_type,
    _aten.to.dtype: _same_type,
    _aten.to.dtype_layout: _same_type,
    _aten.unflatten.int: _known_shape,
    _aten.view.default: _view,
}
"""Op -> the form that decomposing gives it; None where it has none here."""


def spell_out(program: ExportedProgram) -> bool:
    """Decomposes `program` in place where that takes no trace, so that `run_decompositions` leaves it as it is.

    Returns whether it did. Else the program is as it was.
    """
    graph = program.graph
    if _changes_state(program) or not all(_is_known(node) for node in graph.nodes):
        return False
    ends = graph.output_node().all_input_nodes  # the signature has their names
    spelt = {node: _FORMS[node.target](node) for node in graph.nodes if node.target in _FORMS}
    sizes = _Sizes(graph)
    for node, form in spelt.items():
        if form is None or not sizes.known(form.shape) or (form.op is None and node in ends):
            return False
    for node in spelt:
        _rewrite(graph, node, sizes)
    program.graph_module.recompile()
    program.run_decompositions = lambda *_, **__: program
    return True


def _changes_state(program: ExportedProgram) -> bool:
    signature = program.graph_signature
    return bool(signature.buffers_to_mutate or signature.user_inputs_to_mutate)


def _is_known(node: fx.Node) -> bool:
    """What `get_attr` reads is a branch of its own, or a constant made in passing: left to torch."""
    called = node.op == "call_function" and (node.target in _KEPT or node.target in _FORMS)
    return called or node.op in ("placeholder", "output")


class _Sizes:
    """Sizes of tensors as what a graph can hold: numbers, and nodes that take an input's size."""

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._inputs = [node for node in graph.nodes if node.op == "placeholder"]
        self._axes: dict[str, tuple[fx.Node, int]] = {}
        self._taken: dict[str, fx.Node] = {}
        for node in self._inputs:
            value = node.meta.get("val")
            for axis, size in enumerate(value.shape if isinstance(value, Tensor) else ()):
                if isinstance(size, SymInt):
                    self._axes.setdefault(str(size), (node, axis))

    def known(self, shape: Sequence[Any]) -> bool:
        return all(not isinstance(size, SymInt) or str(size) in self._axes for size in shape)

    def node(self, size: Any) -> Any:
        """`size` itself where it is a number."""
        if not isinstance(size, SymInt):
            return size
        if str(size) not in self._taken:
            source, axis = self._axes[str(size)]
            with self._graph.inserting_after(self._inputs[-1]):
                taken = self._graph.call_function(_aten.sym_size.int, (source, axis))
            taken.meta["val"] = size
            self._taken[str(size)] = taken
        return self._taken[str(size)]


def _rewrite(graph: fx.Graph, node: fx.Node, sizes: _Sizes) -> None:
    """In place, so that it keeps its name, its value and its line of the user's code."""
    form = _FORMS[node.target](node)  # anew: what it reads may have gone by now
    assert form is not None
    if form.op is None:
        node.replace_all_uses_with(form.source)
        graph.erase_node(node)
        return
    arguments = [[sizes.node(size) for size in each] if each is form.shape else each for each in form.arguments]
    node.target, node.args, node.kwargs = form.op, (form.source, *arguments), {}
