"""A program's few ops that the exporter has no translation for, spelt out where they stand.

torch.onnx.export traces a program once more to decompose it, on symbolic sizes, which takes longer than everything else
in an export. What most transformers are made of needs none of that: of their ops a handful have other names
afterwards. Programs that hold any other op than those of `kept_ops` and `op_forms` are left to torch.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import SymInt, Tensor, fx
from torch.export import ExportedProgram

from dsr_export.tracing.decompositions.kept_ops import KEPT
from dsr_export.tracing.decompositions.op_forms import FORMS, GRID, form_of

_aten = torch.ops.aten


def spell_out(program: ExportedProgram) -> bool:
    """Decomposes `program` in place where that takes no trace, so that `run_decompositions` leaves it as it is.

    Returns whether it did. Else the program is as it was.
    """
    graph = program.graph
    if _changes_state(program) or not _names_its_ends(program) or not all(_is_known(node) for node in graph.nodes):
        return False
    ends = graph.output_node().all_input_nodes  # the signature has their names
    spelt = {node: spell(node) for node in graph.nodes if (spell := form_of(node)) is not None}
    sizes = _Sizes(graph)
    for node, form in spelt.items():
        if form is None or not sizes.known(form.shape) or (form.op is None and node in ends):
            return False
    for node in spelt:
        _rewrite(graph, node, sizes)
    for node in [node for node in graph.nodes if node.target is GRID and not node.users]:
        graph.erase_node(node)
    program.graph_module.recompile()
    program.run_decompositions = lambda *_, **__: program
    return True


def _changes_state(program: ExportedProgram) -> bool:
    signature = program.graph_signature
    return bool(signature.buffers_to_mutate or signature.user_inputs_to_mutate)


def _names_its_ends(program: ExportedProgram) -> bool:
    """Whether its signature knows its outputs: what was rewritten before may have other names by now."""
    ends = [each.name for each in program.graph.output_node().args[0] if isinstance(each, fx.Node)]
    return set(ends) <= {getattr(spec.arg, "name", None) for spec in program.graph_signature.output_specs}


def _is_known(node: fx.Node) -> bool:
    """What `get_attr` reads is a branch of its own, or a constant made in passing: left to torch."""
    if node.op != "call_function":
        return node.op in ("placeholder", "output")
    return node.target in KEPT or node.target in FORMS or node.target is GRID


class _Sizes:
    """Sizes of tensors as what a graph can hold: numbers, and nodes that take an input's size, or so many times it."""

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._inputs = [node for node in graph.nodes if node.op == "placeholder"]
        self._axes: dict[str, tuple[fx.Node, int]] = {}
        self._made: dict[str, fx.Node] = {}
        for node in self._inputs:
            value = node.meta.get("val")
            for axis, size in enumerate(value.shape if isinstance(value, Tensor) else ()):
                if isinstance(size, SymInt):
                    self._axes.setdefault(str(size), (node, axis))

    def known(self, shape: Sequence[Any]) -> bool:
        return all(not isinstance(size, SymInt) or str(_parts(size)[1]) in self._axes for size in shape)

    def node(self, size: Any, reader: fx.Node) -> Any:
        """`size` itself where it is a number. Each is made once, in front of its first `reader`."""
        if not isinstance(size, SymInt):
            return size
        times, one = _parts(size)
        if str(one) not in self._made:
            source, axis = self._axes[str(one)]
            with self._graph.inserting_after(self._inputs[-1]):
                taken = self._graph.call_function(_aten.sym_size.int, (source, axis))
            taken.meta["val"] = source.meta["val"].shape[axis]
            self._made[str(one)] = taken
        if str(size) not in self._made:
            with self._graph.inserting_before(reader):
                product = self._graph.call_function(operator.mul, (self._made[str(one)], times))
            product.meta = {**reader.meta, "val": size}
            self._made[str(size)] = product
        return self._made[str(size)]


def _parts(size: SymInt) -> tuple[int, Any]:
    """`size` as so many times what is left of it."""
    times, rest = size.node.expr.as_coeff_Mul()
    return (int(times), rest) if times.is_Integer else (1, size)


def _rewrite(graph: fx.Graph, node: fx.Node, sizes: _Sizes) -> None:
    """In place, so that it keeps its name, its value and its line of the user's code."""
    spelt = form_of(node)
    form = None if spelt is None else spelt(node)  # anew: what it reads may have gone by now
    assert form is not None
    if form.op is None:
        node.replace_all_uses_with(form.source)
        graph.erase_node(node)
        return
    arguments = form.arguments if form.before is None else form.before(partial(_inserted, graph, node))
    sized = [[sizes.node(size, node) for size in each] if each is form.shape else each for each in arguments]
    node.target, node.args, node.kwargs = form.op, tuple(sized), dict(form.options)


def _inserted(graph: fx.Graph, node: fx.Node, op: Any, *arguments: Any) -> fx.Node:
    """An op in front of `node`, of the same place in the model."""
    with graph.inserting_before(node):
        made = graph.call_function(op, arguments)
    values = [each.meta["val"] if isinstance(each, fx.Node) else each for each in arguments]
    made.meta = {**node.meta, "val": op(*values)}
    return made
