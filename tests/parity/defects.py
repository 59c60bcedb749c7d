"""Defects of conversion, planted into the typed graph of `digits` or `digits-outliers`; each says what it breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Edit = Callable[["Graph", int], None]


@dataclass(frozen=True)
class Defect:
    """`edit` breaks block `block` of `model`; the search must name `site`."""

    name: str
    model: str
    edit: Edit
    block: int
    site: str

    def __str__(self) -> str:
        return f"{self.name}-{self.block}"


class Graph:
    """A model under the knife: nodes by name, constants as arrays."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.graph = model, model.graph

    def node(self, name: str) -> onnx.NodeProto:
        (found,) = (node for node in self.graph.node if node.name == name)
        return found

    def tensor(self, name: str) -> onnx.TensorProto:
        (found,) = (tensor for tensor in self.graph.initializer if tensor.name == name)
        return found

    def change(self, name: str, edit: Callable[[np.ndarray], np.ndarray]) -> None:
        """A constant, for all that read it."""
        tensor = self.tensor(name)
        array = numpy_helper.to_array(tensor)
        changed = np.ascontiguousarray(edit(array)).astype(array.dtype)
        assert not np.array_equal(changed, array), f"{name} stays as it is"
        tensor.CopyFrom(numpy_helper.from_array(changed, name))

    def change_input(self, node: str, place: int, edit: Callable[[np.ndarray], np.ndarray]) -> None:
        """A constant, for one node alone."""
        reader = self.node(node)
        name = f"planted/{node}"
        copy = onnx.TensorProto()
        copy.CopyFrom(self.tensor(reader.input[place]))
        copy.name = name
        self.graph.initializer.append(copy)
        reader.input[place] = name
        self.change(name, edit)

    def weight(self, module: str) -> str:
        """The weight of a linear layer."""
        for op in ("MatMul", "Gemm"):
            for node in self.graph.node:
                if node.name == f"{module}/{op}":
                    return node.input[1]
        raise AssertionError(f"{module} has no weight")

    def bias(self, module: str) -> str:
        node = next(node for node in self.graph.node if node.name in (f"{module}/Add", f"{module}/Gemm"))
        return node.input[1] if node.op_type == "Add" else node.input[2]

    def redirect(self, old: str, new: str, *, but: Iterable[str] = ()) -> None:
        """All that reads `old` reads `new`."""
        for node in self.graph.node:
            if node.name not in but:
                for i, name in enumerate(node.input):
                    if name == old:
                        node.input[i] = new

    def after(self, name: str, *nodes: onnx.NodeProto) -> None:
        """Inserts nodes behind the one called `name`."""
        at = next(i for i, node in enumerate(self.graph.node) if node.name == name)
        rest = list(self.graph.node)[at + 1 :]
        del self.graph.node[at + 1 :]
        self.graph.node.extend([*nodes, *rest])

    def prune(self) -> None:
        """Drops what no output needs."""
        live = {value.name for value in self.graph.output}
        kept = []
        for node in reversed(self.graph.node):
            if live.intersection(node.output):
                live.update(node.input)
                kept.append(node)
        del self.graph.node[:]
        self.graph.node.extend(reversed(kept))


def wrong_register_index(graph: Graph, block: int) -> None:
    graph.change(f"dsr/lower/replacements.{block}/registers", lambda rows: np.roll(rows, 1, axis=0))


def threshold_off(factor: float) -> Edit:
    def edit(graph: Graph, block: int) -> None:
        for name in ("factor", "factor_2"):
            graph.change(f"dsr/lower/replacements.{block}/{name}", lambda value: value * factor)

    return edit


def replacement_dropped(graph: Graph, block: int) -> None:
    """As if the site had not been lowered at all."""
    out = f"dsr/lower/replacements.{block}/out"
    before = graph.node(out).input[2]
    graph.redirect(out, before)
    graph.redirect(f"dsr/lower/replacements.{block}/squares_after", f"dsr/lower/replacements.{block}/squares")
    graph.prune()


def replacement_bypassed(graph: Graph, block: int) -> None:
    """The site is there, and nothing reads it."""
    out = f"dsr/lower/replacements.{block}/out"
    graph.redirect(out, graph.node(out).input[2])


def shift_and_scale_swapped(graph: Graph, block: int) -> None:
    _swap_modulation(graph, f"blocks.{block}/Add", f"blocks.{block}/Add_1")


def final_shift_and_scale_swapped(graph: Graph, block: int) -> None:
    _swap_modulation(graph, "final_layer/Add", "final_layer/Add_1")


def _swap_modulation(graph: Graph, scaled: str, shifted: str) -> None:
    """`scaled` adds one to the scale, `shifted` adds the shift to what was scaled."""
    scale, shift = graph.node(scaled), graph.node(shifted)
    scale.input[0], shift.input[1] = shift.input[1], scale.input[0]


def detection_in_half(graph: Graph, block: int) -> None:
    """The FP32 island of a detection is missing: the squared norms of outliers overflow."""
    squares = f"dsr/lower/replacements.{block}/squares"
    low = helper.make_node("Cast", [squares], [f"{squares}.half"], f"{squares}.half", to=TensorProto.FLOAT16)
    back = helper.make_node("Cast", [f"{squares}.half"], [f"{squares}.back"], f"{squares}.back", to=TensorProto.FLOAT)
    graph.redirect(squares, f"{squares}.back")
    graph.after(squares, low, back)


def weight_transposed(module: str) -> Edit:
    def edit(graph: Graph, block: int) -> None:
        graph.change(graph.weight(f"blocks.{block}.{module}"), np.transpose)

    return edit


def bias_zeroed(module: str) -> Edit:
    def edit(graph: Graph, block: int) -> None:
        graph.change(graph.bias(f"blocks.{block}.{module}"), np.zeros_like)

    return edit


def rope_tables_exchanged(graph: Graph, block: int) -> None:
    """Sines where cosines belong, for queries and keys of one block; tables are shared between blocks."""
    tables = [tensor.name for tensor in graph.graph.initializer if "freqs_" in tensor.name]
    exchanged = {a: b for a in tables for b in tables if a != b and _rope(a) == _rope(b)}
    for place in range(len(graph.graph.node)):
        node = graph.graph.node[place]
        if "feat_rope" in node.name and _feeds(graph, node, f"blocks.{block}.attn/"):
            for i, name in enumerate(node.input):
                node.input[i] = exchanged.get(name, name)


def _rope(table: str) -> str:
    """`feat_rope` or `feat_rope_incontext`, whose sines and cosines belong together."""
    return table.split(".freqs_")[0].rsplit("/", 1)[-1]


def _feeds(graph: Graph, node: onnx.NodeProto, prefix: str) -> bool:
    """Whether a rope node works for the attention called `prefix`."""
    reached = set(node.output)
    for other in graph.graph.node:
        if reached.intersection(other.input):
            if prefix in other.name:
                return True
            if "feat_rope" in other.name:
                reached.update(other.output)
    return False


def heads_permuted(graph: Graph, block: int) -> None:
    """Values leave their heads in another order."""

    def edit(weight: np.ndarray) -> np.ndarray:  # [D, 3 D], columns q, k, v; four heads
        q, k, v = np.split(weight, 3, axis=1)
        return np.concatenate([q, k, np.roll(v, v.shape[1] // 4, axis=1)], axis=1)

    graph.change(graph.weight(f"blocks.{block}.attn.qkv"), edit)


def wrong_epsilon(graph: Graph, block: int) -> None:
    graph.change_input(f"blocks.{block}.norm2/Add", 1, lambda value: value + 0.05)


def gate_dropped(graph: Graph, block: int) -> None:
    gated = f"blocks.{block}/Mul_1"
    graph.redirect(gated, graph.node(gated).input[1])
    graph.prune()


def mlp_gate_of_attention(graph: Graph, block: int) -> None:
    """Both branches take the gate of the first."""
    graph.node(f"blocks.{block}/Mul_3").input[0] = graph.node(f"blocks.{block}/Mul_1").input[0]


def stale_quantiser(graph: Graph, block: int) -> None:
    """An INT8 pair on the MLP's input whose scale was measured on another tensor: most of the range is cut off."""
    name = f"blocks.{block}/Add_4"
    kind = np.float16 if graph.tensor(graph.weight(f"blocks.{block}.mlp.w12")).data_type == 10 else np.float32
    scale, zero = f"planted/{name}/scale", f"planted/{name}/zero"
    graph.graph.initializer.extend(
        [numpy_helper.from_array(np.array(0.005, kind), scale), numpy_helper.from_array(np.array(0, np.int8), zero)]
    )
    down = helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}.q"], f"{name}.q")
    up = helper.make_node("DequantizeLinear", [f"{name}.q", scale, zero], [f"{name}.dq"], f"{name}.dq")
    graph.redirect(name, f"{name}.dq")
    graph.after(name, down, up)


def attention_scale_wrong(graph: Graph, block: int) -> None:
    graph.change_input(f"dsr/optimize/blocks.{block}.attn/MatMul.scaled", 1, lambda value: value * 1.5)


def residual_subtracted(graph: Graph, block: int) -> None:
    graph.node(f"blocks.{block}/Add_5").op_type = "Sub"


def halves_swapped(graph: Graph, block: int) -> None:
    """Gate and value of the SwiGLU."""
    graph.change(graph.weight(f"blocks.{block}.mlp.w12"), lambda w: np.roll(w, w.shape[1] // 2, axis=1))


def modulation_of_a_neighbour(graph: Graph, block: int) -> None:
    mine, other = (graph.node(f"blocks.{i}.adaLN_modulation.1/Gemm") for i in (block, block - 1))
    mine.input[1], mine.input[2] = other.input[1], other.input[2]


def norm_weight_lost(graph: Graph, block: int) -> None:
    graph.change(f"blocks.{block}.norm1.weight", np.ones_like)


def registers_out_of_order(graph: Graph, block: int) -> None:
    graph.change(graph.node("root/Expand").input[0], lambda rows: np.roll(rows, 1, axis=-2))


def register_norms_stale(graph: Graph, block: int) -> None:
    graph.change(f"dsr/lower/replacements.{block}/register_squares", lambda squares: squares * 4)


def softmax_over_queries(graph: Graph, block: int) -> None:
    softmax = graph.node(f"blocks.{block}.attn/Softmax")
    for attribute in softmax.attribute:
        if attribute.name == "axis":
            attribute.i = 2


def time_bias_zeroed(graph: Graph, block: int) -> None:
    graph.change(graph.bias("t_embedder.mlp.2"), np.zeros_like)


def positions_shifted(graph: Graph, block: int) -> None:
    graph.change(graph.node("root/Add").input[1], lambda rows: np.roll(rows, 1, axis=-2))


def _in_block(name: str, model: str, edit: Edit, block: int) -> Defect:
    return Defect(name, model, edit, block, f"blocks.{block}")


DEFECTS = (
    _in_block("wrong-register-index", "digits-outliers", wrong_register_index, 3),
    _in_block("threshold-10-percent-low", "digits", threshold_off(0.9), 2),
    _in_block("threshold-10-percent-low", "digits", threshold_off(0.9), 4),
    _in_block("replacement-dropped", "digits-outliers", replacement_dropped, 3),
    _in_block("replacement-bypassed", "digits-outliers", replacement_bypassed, 3),
    _in_block("register-norms-stale", "digits-outliers", register_norms_stale, 3),
    _in_block("shift-and-scale-swapped", "digits", shift_and_scale_swapped, 5),
    _in_block("shift-and-scale-swapped", "digits-outliers", shift_and_scale_swapped, 1),
    _in_block("detection-in-half", "digits-outliers", detection_in_half, 3),
    _in_block("proj-transposed", "digits", weight_transposed("attn.proj"), 7),
    _in_block("proj-transposed", "digits-outliers", weight_transposed("attn.proj"), 0),
    _in_block("modulation-bias-zeroed", "digits", bias_zeroed("adaLN_modulation.1"), 6),
    _in_block("rope-tables-exchanged", "digits", rope_tables_exchanged, 3),
    _in_block("rope-tables-exchanged", "digits-outliers", rope_tables_exchanged, 0),
    _in_block("heads-permuted", "digits", heads_permuted, 4),
    _in_block("wrong-epsilon", "digits-outliers", wrong_epsilon, 7),
    _in_block("gate-dropped", "digits", gate_dropped, 2),
    _in_block("gate-dropped", "digits-outliers", gate_dropped, 6),
    _in_block("mlp-gate-of-attention", "digits", mlp_gate_of_attention, 1),
    _in_block("stale-quantiser", "digits", stale_quantiser, 5),
    _in_block("attention-scale-wrong", "digits", attention_scale_wrong, 3),
    _in_block("residual-subtracted", "digits-outliers", residual_subtracted, 4),
    _in_block("halves-swapped", "digits", halves_swapped, 2),
    _in_block("modulation-of-a-neighbour", "digits-outliers", modulation_of_a_neighbour, 6),
    _in_block("norm-weight-lost", "digits", norm_weight_lost, 2),
    _in_block("softmax-over-queries", "digits-outliers", softmax_over_queries, 5),
    Defect("final-shift-and-scale-swapped", "digits", final_shift_and_scale_swapped, 8, "final_layer"),
    Defect("time-bias-zeroed", "digits-outliers", time_bias_zeroed, 0, "t_embedder"),
    Defect("positions-shifted", "digits", positions_shifted, 0, "root"),
)
