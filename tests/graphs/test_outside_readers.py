"""A tensor within a site may be an output of the graph too: it keeps its name and value, whatever is rewritten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from graphs.artifacts import TracedModel
from graphs.lowering import lower
from graphs.outside_readers import only_reader, outside_readers
from graphs.quantize.channel_division import division
from graphs.quantize.gate_padding import pad_gated_mlps
from graphs.quantize.gemms import quantize_gemms
from graphs.quantize.quantizers import Activation, QuantizedGemm
from graphs.rewrite import Rewrite
from graphs.rewrites import OPTIMIZATIONS
from graphs.rewrites.drop_ones import DropOnes
from tests.graphs.optimizing import infer, parsed, rewritten
from tests.graphs.rewrites import (
    test_divide_by_root,
    test_drop_ones,
    test_fold_register_neurons,
    test_fold_reshape_shape,
    test_gather_scattered_sums,
    test_hoist_unsqueeze,
    test_scale_queries,
    test_swap_pairs,
    test_transpose_keys,
)
from tests.graphs.spelt_norms import spelt_norm

Make = Callable[[Path], onnx.ModelProto]
SITES: dict[str, Make] = {
    "drop_ones": lambda _: _behind_ones(),
    "spell_out_bool_where": lambda _: _where(),
    "divide_by_root": lambda _: test_divide_by_root.example(),
    "fuse_layer_norm": lambda folder: _folded(onnx.load(spelt_norm(folder / "norm.onnx", "pow"))),
    "fold_reshape_shape": lambda _: test_fold_reshape_shape.example(),
    "transpose_keys": lambda _: test_transpose_keys.example(),
    "scale_queries": lambda _: test_scale_queries.example(),
    "swap_pairs": lambda _: test_swap_pairs.example(),
    "gather_scattered_sums": lambda _: test_gather_scattered_sums.example(),
    "hoist_unsqueeze": lambda _: test_hoist_unsqueeze.example(),
}


def _behind_ones() -> onnx.ModelProto:
    model = test_drop_ones.example()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    return model


def _where() -> onnx.ModelProto:
    """A choice whose operands are made within."""
    text = """g (float[2, 4] x) => (bool[2, 4] out) {
  ["m/Greater"] c = Greater(x, zero)
  ["m/Less"] a = Less(x, one)
  ["m/Where"] chosen = Where(c, a, c)
  ["m/Not"] out = Not(chosen)
}
"""
    return parsed(text, {"zero": np.zeros(1, np.float32), "one": np.ones(1, np.float32)})


@pytest.mark.parametrize("order", [0, 1])
def test_two_outputs_that_become_one_tensor_keep_their_names(order: int) -> None:
    text = """g (float[2, 4, 3] x) => (float[2, 4, 3] a, float[2, 4, 3] b) {
  ["n/Relu"] a = Relu(x)
  ["n/Mul"] b = Mul(a, rows)
}
"""
    model = parsed(text, {"rows": np.ones((4, 1), np.float32)})
    if order:
        ends = [*reversed(model.graph.output)]
        del model.graph.output[:]
        model.graph.output.extend(ends)
    done = rewritten(model, DropOnes())
    assert done.report.count == 1
    _check_same(done.before, done.after)


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    return gs.export_onnx(gs.import_onnx(model).fold_constants().cleanup(), ir_version=10)


def _with_output(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    known = {value.name: value for value in onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info}
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.graph.output.extend(known[name] for name in names)
    return made


def _inside(model: onnx.ModelProto) -> list[str]:
    """What nodes make and shape inference knows, outputs left out."""
    known = {value.name for value in onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info}
    outputs = {value.name for value in model.graph.output}
    return [name for node in model.graph.node for name in node.output if name in known - outputs]


def _feed(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    rng, feeds = np.random.default_rng(1), {}
    for value in model.graph.input:
        shape = [dim.dim_value or 2 for dim in value.type.tensor_type.shape.dim]
        whole = value.type.tensor_type.elem_type == onnx.TensorProto.INT64
        feeds[value.name] = rng.integers(0, 2, shape) if whole else rng.standard_normal(shape).astype(np.float32)
    return feeds


def _check_same(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    assert [value.name for value in after.graph.output] == [value.name for value in before.graph.output]
    feeds = _feed(before)
    for mine, theirs in zip(infer(after, feeds, optimized=False), _truth(before, feeds), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=2e-6)


def _truth(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """By ONNX Runtime, but for the op that it lacks a kernel for."""
    if any(node.op_type == "Where" for node in model.graph.node):
        return list(ReferenceEvaluator(model).run(None, feeds))
    return infer(model, feeds, optimized=False)


def test_every_optimization_has_its_site_here() -> None:
    assert {rewrite.name for rewrite in OPTIMIZATIONS} == set(SITES)


@pytest.mark.parametrize("rewrite", OPTIMIZATIONS, ids=lambda rewrite: rewrite.name)
def test_an_output_within_a_site_is_as_it_was(rewrite: Rewrite, tmp_path: Path) -> None:
    model = SITES[rewrite.name](tmp_path)
    assert rewritten(model, rewrite).report.count
    names = _inside(model)
    assert names
    for given in [*([name] for name in names), names]:
        done = rewritten(_with_output(model, given), rewrite)
        _check_same(done.before, done.after)


@pytest.mark.parametrize("form", ["matmul", "gemm", "gemm_t", "bare"])
@pytest.mark.parametrize("mode", ["zero", "same"])
def test_an_output_within_a_register_neuron_site_is_as_it_was(form: str, mode: str, tmp_path: Path) -> None:
    """The folded form against the masks, which a site with a second reader always gets."""
    theirs = test_fold_register_neurons
    attributes = theirs._attributes(mode)
    model = theirs._model(theirs._weights(np.random.default_rng(0)), attributes, form=form)
    feeds = _feed(model)

    def outputs(given: list[str], source: onnx.ModelProto) -> list[np.ndarray]:
        made = onnx.ModelProto()
        made.CopyFrom(source)
        made.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in given)
        onnx.save(made, tmp_path / "traced.onnx")
        traced = TracedModel(path=tmp_path / "traced.onnx", sites={"ShiftRegisterNeurons": 1})
        return infer(onnx.load(lower(traced, tmp_path / "lowered.onnx")[0].path), feeds)

    masks = onnx.ModelProto()
    masks.CopyFrom(model)
    masks.graph.node.append(helper.make_node("Abs", ["s"], ["unread"], name="blocks.0.mlp/Abs"))  # a second reader
    inside = [name for node in model.graph.node for name in node.output if name != "out"]
    truth = dict(zip(["out", *inside], outputs(inside, masks), strict=True))
    for given in [[], *([name] for name in inside), inside]:
        for name, value in zip(["out", *given], outputs(given, model), strict=True):
            np.testing.assert_allclose(value, truth[name], rtol=2e-5, atol=2e-5, err_msg=f"{name} beside {given}")


# -- what an INT8 build does beside ---------------------------------------------------------------------------------

GATED = """g (float[N, 20, 32] x) => (float[N, 20, 32] out) {
    a = MatMul(x, up)
    h = Add(a, bias)
    gate, value = Split<axis = -1, num_outputs = 2>(h)
    sigmoid = Sigmoid(gate)
    silu = Mul(gate, sigmoid)
    product = Mul(silu, value)
    out = MatMul(product, down)
}"""


def _imported(model: onnx.ModelProto) -> gs.Graph:
    for node in model.graph.node:
        node.name = f"m.{node.output[0]}/{node.op_type}"
    return gs.import_onnx(onnx.shape_inference.infer_shapes(model, data_prop=True))


def test_a_gated_mlp_is_not_widened_where_an_output_would_be() -> None:
    rng = np.random.default_rng(0)
    shapes = {"up": (32, 84), "bias": (84,), "down": (42, 32)}
    model = parsed(GATED, {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()})
    assert pad_gated_mlps(_imported(model)) == ["m.out"]
    for name in _inside(model):
        graph = _imported(_with_output(model, [name]))
        assert pad_gated_mlps(graph) == [], name
        assert [tensor.name for tensor in graph.outputs] == ["out", name]


def test_an_output_is_not_divided() -> None:
    model = parsed(
        "g (float[N, 20, 32] x) => (float[N, 20, 32] out) { h = Mul(x, scale) out = MatMul(h, w) }",
        {"scale": np.ones(32, np.float32), "w": np.ones((32, 32), np.float32)},
    )
    for given, foldable in (([], True), (["h"], False)):
        graph = _imported(_with_output(model, given))
        with outside_readers(graph):
            assert (division(graph.tensors()["h"], np.full(32, 2.0)) is not None) is foldable


def test_a_product_that_is_an_output_gets_its_correction_itself() -> None:
    rng = np.random.default_rng(0)
    model = parsed(
        "g (float[N, 20, 32] x) => (float[N, 20, 32] out) { h = MatMul(x, w) out = Add(h, bias) }",
        {"w": rng.standard_normal((32, 32)).astype(np.float32), "bias": np.ones(32, np.float32)},
    )
    shift = np.arange(32, dtype=np.float32)
    planned = QuantizedGemm(
        codes=np.ones((32, 32), np.int8),
        weight_steps=np.ones(32, np.float32),
        activation=Activation(step=0.05, rows="none"),
        bias_shift=shift,
    )
    graph = _imported(_with_output(model, ["h"]))
    assert quantize_gemms(graph, {"m.h": planned}) == ["m.h"]
    out, h = infer(gs.export_onnx(graph, do_type_check=False, ir_version=10), {"x": np.zeros((1, 20, 32), np.float32)})
    np.testing.assert_array_equal(h[0, 0], shift)
    np.testing.assert_array_equal(out[0, 0], shift + 1)


def test_outputs_that_come_to_share_a_tensor_keep_their_names() -> None:
    model = parsed(
        "g (float[2] x) => (float[2] out, float[2] other) { out = Abs(x) other = Neg(x) }",
        {},
    )
    graph = _imported(model)
    with outside_readers(graph):
        first, second = graph.outputs
        assert only_reader(graph.nodes[0].outputs[0]) is first.inputs[0]
        second.inputs[0].inputs = [graph.nodes[0].outputs[0]]
    graph.cleanup().toposort()
    out, other = infer(gs.export_onnx(graph, ir_version=10), {"x": np.array([-1, 2], np.float32)})
    assert [tensor.name for tensor in graph.outputs] == ["out", "other"]
    assert out.tolist() == other.tolist() == [1, 2]
