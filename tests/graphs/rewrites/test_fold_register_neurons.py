"""Register neurons folded into the MLP's second GEMM, against the in-place definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from dsr_export.register_ops.neuron_shift import shift_register_neurons
from graphs.artifacts import TracedModel
from graphs.dsr import definitions
from graphs.dsr.domain import register_schemas
from graphs.errors import ExportError
from graphs.lowering import lower
from tests.graphs.symbolic import lowered, operators, session

Array = np.ndarray
ROWS, WIDTH, DIM = 10, 16, 6
NEURONS = [2, 7, 7, 11]
FOLDED, MASKS = "fold_register_neurons", "lower_shift_register_neurons"
GOLDEN = """\
Gather dsr/lower/blocks.0.mlp/listed
ReduceMax dsr/lower/blocks.0.mlp/high
ReduceMin dsr/lower/blocks.0.mlp/low
Abs dsr/lower/blocks.0.mlp/high_size
Abs dsr/lower/blocks.0.mlp/low_size
Greater dsr/lower/blocks.0.mlp/higher
Where dsr/lower/blocks.0.mlp/signed_max
Mul dsr/lower/blocks.0.mlp/register_correction
Slice dsr/lower/blocks.0.mlp/first_listed
MatMul dsr/lower/blocks.0.mlp/row_correction
MatMul blocks.0.mlp.fc2/MatMul
Add blocks.0.mlp.fc2/Add
Slice dsr/lower/blocks.0.mlp/first_row
Slice dsr/lower/blocks.0.mlp/ordinary_rows
Slice dsr/lower/blocks.0.mlp/register_rows
Add dsr/lower/blocks.0.mlp/row
Add dsr/lower/blocks.0.mlp/registers
Concat dsr/lower/blocks.0.mlp/out
Add blocks.0/Add
"""


def _weights(rng: np.random.Generator) -> dict[str, Array]:
    shapes = {"w": (WIDTH, DIM), "b": (DIM,)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def _attributes(mode: str = "zero", scale: tuple[float, ...] = (1.0,)) -> dict[str, Any]:
    return {"neurons": NEURONS, "registers": len(scale), "scale": list(scale), "normal_values": mode}


def _model(arrays: dict[str, Array], attributes: dict[str, Any], *, form: str = "matmul") -> onnx.ModelProto:
    """`a [batch, ROWS, WIDTH], h [batch, ROWS, DIM] -> out = h + fc2(shift(a))`, fc2 written in one of several ways."""
    register_schemas()
    shift = helper.make_node(
        "ShiftRegisterNeurons", ["a"], ["s"], name="blocks.0.mlp/ShiftRegisterNeurons", domain="dsr", **attributes
    )
    nodes = [shift, *_second_gemm(arrays, form), helper.make_node("Add", ["h", "m"], ["out"], name="blocks.0/Add")]
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", ROWS, size])
        for name, size in (("a", WIDTH), ("h", DIM), ("out", DIM), ("m", DIM))
    ]
    stored = {"flat": np.array([-1, WIDTH]), "whole": np.array([-1, ROWS, DIM])} | arrays
    initializers = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    inputs = values[:2]
    if form == "dynamic":
        initializers = [tensor for tensor in initializers if tensor.name != "w"]
        inputs = [*inputs, helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [WIDTH, DIM])]
    graph = helper.make_graph(nodes, "g", inputs, [values[2]], initializers, value_info=[values[3]])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("dsr", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _second_gemm(arrays: dict[str, Array], form: str) -> list[onnx.NodeProto]:
    if form.startswith("gemm"):
        arrays["stored"] = np.ascontiguousarray(arrays["w"].T if form == "gemm_t" else arrays["w"])
        factors = {"transB": 1, "alpha": 1.0} if form == "gemm_t" else {"alpha": 0.5, "beta": 2.0}
        return [
            helper.make_node("Reshape", ["s", "flat"], ["s2"], name="blocks.0.mlp.fc2/Reshape"),
            helper.make_node("Gemm", ["s2", "stored", "b"], ["m2"], name="blocks.0.mlp.fc2/Gemm", **factors),
            helper.make_node("Reshape", ["m2", "whole"], ["m"], name="blocks.0.mlp.fc2/Reshape_1"),
        ]
    if form == "bare":
        return [helper.make_node("MatMul", ["s", "w"], ["m"], name="blocks.0.mlp.fc2/MatMul")]
    nodes = [
        helper.make_node("MatMul", ["s", "w"], ["p"], name="blocks.0.mlp.fc2/MatMul"),
        helper.make_node("Add", ["p", "b"], ["m"], name="blocks.0.mlp.fc2/Add"),
    ]
    if form == "read_twice":
        nodes[1].input[1] = "mean"
        nodes.insert(1, helper.make_node("ReduceMean", ["s"], ["mean"], name="blocks.0.mlp/ReduceMean", keepdims=1))
    return nodes


def _expected(feed: dict[str, Array], arrays: dict[str, Array], attributes: dict[str, Any], form: str) -> Array:
    values = (attributes[key] for key in ("neurons", "registers", "scale", "normal_values"))
    shifted = shift_register_neurons(torch.from_numpy(feed["a"]), *values).numpy().astype(np.float64)
    product, bias = shifted @ arrays["w"].astype(np.float64), arrays["b"].astype(np.float64)
    if form == "gemm":
        product, bias = 0.5 * product, 2 * bias
    if form == "read_twice":
        bias = shifted.mean()
    return feed["h"] + product + (0 if form == "bare" else bias)


def _feed(rng: np.random.Generator, batch: int, offset: float = 0.0) -> dict[str, Array]:
    sizes = {"a": WIDTH, "h": DIM}
    feed = {name: rng.standard_normal((batch, ROWS, size)).astype(np.float32) for name, size in sizes.items()}
    feed["a"] += np.float32(offset)
    return feed


@pytest.mark.parametrize("form", ["matmul", "bare", "gemm", "gemm_t"])
@pytest.mark.parametrize("scale", [(1.0,), (0.5, 2.0)])
@pytest.mark.parametrize("mode", ["zero", "same"])
def test_matches_the_in_place_form(
    mode: str, scale: tuple[float, ...], form: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    arrays, attributes = _weights(rng), _attributes(mode, scale)
    model, reports = lowered(_model(arrays, attributes, form=form), tmp_path)
    assert (reports[0].name, reports[0].count) == (FOLDED, 1)
    run = session(model)
    for offset in (2, -2):  # the signed maximum is positive, then negative
        feed = _feed(rng, 3, offset)
        got = run.run(None, feed)[0]
        np.testing.assert_allclose(got, _expected(feed, arrays, attributes, form), rtol=0, atol=1e-5)


def test_matches_the_numpy_definition(tmp_path: Path, rng: np.random.Generator) -> None:
    arrays, attributes = _weights(rng), _attributes("zero", (1.5,))
    run = session(lowered(_model(arrays, attributes), tmp_path)[0])
    for _ in range(20):
        feed = _feed(rng, 2)
        expected = feed["h"] + definitions.shift_register_neurons(feed["a"], **attributes) @ arrays["w"] + arrays["b"]
        np.testing.assert_allclose(run.run(None, feed)[0], expected, rtol=0, atol=1e-5)


def test_golden_structure(tmp_path: Path, rng: np.random.Generator) -> None:
    """Nothing of the width of `a` is made: a Gather of the listed neurons and the GEMM are all that read it."""
    graph = onnx.load(lowered(_model(_weights(rng), _attributes()), tmp_path)[0].path).graph
    assert sorted(f"{node.op_type} {node.name}" for node in graph.node) == sorted(GOLDEN.splitlines())
    assert {node.op_type for node in graph.node if "a" in node.input} == {"Gather", "MatMul"}
    onnx.checker.check_model(onnx.load(tmp_path / "lowered.onnx"), full_check=True)


def test_only_the_listed_rows_of_the_weight_are_zeroed(tmp_path: Path, rng: np.random.Generator) -> None:
    arrays = _weights(rng)
    graph = onnx.load(lowered(_model(arrays, _attributes()), tmp_path)[0].path).graph
    gemm = next(node for node in graph.node if node.name == "blocks.0.mlp.fc2/MatMul")
    weight = next(numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name == gemm.input[1])
    expected = arrays["w"].copy()
    expected[[2, 7, 11]] = 0
    np.testing.assert_array_equal(weight, expected)


@pytest.mark.parametrize(
    ("mode", "form", "reason"),
    [
        ("mean", "matmul", "normal values 'mean' depend on ordinary rows"),
        ("only_outliers", "matmul", "normal values 'only_outliers' depend on ordinary rows"),
        ("zero", "read_twice", "its only reader is no MatMul"),
        ("zero", "dynamic", "has no constant weight for 16 neurons"),
    ],
)
def test_other_sites_get_masks_and_the_report_says_why(
    mode: str, form: str, reason: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    arrays, attributes = _weights(rng), _attributes(mode)
    model, reports = lowered(_model(arrays, attributes, form=form), tmp_path)
    assert [(report.name, report.count) for report in reports][:2] == [(FOLDED, 0), (MASKS, 1)]
    assert [reason in miss.reason for miss in reports[0].misses] == [True]
    feed = _feed(rng, 1, 1.0)
    got = session(model).run(None, feed | ({"w": arrays["w"]} if form == "dynamic" else {}))[0]
    np.testing.assert_allclose(got, _expected(feed, arrays, attributes, form), rtol=0, atol=1e-5)


def test_a_missing_site_is_an_error_with_the_reasons_of_every_lowering(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    model = _model(_weights(rng), _attributes() | {"neurons": [3, WIDTH]})
    with pytest.raises(ExportError, match=rf"{FOLDED} / {MASKS}: 0 sites found where 1 .*\[16\] lie outside"):
        lowered(model, tmp_path)


def test_an_infinite_quieted_activation_spoils_its_own_row_only(tmp_path: Path, rng: np.random.Generator) -> None:
    """The documented difference from the masks, which would write 0 there."""
    arrays, attributes = _weights(rng), _attributes()
    run = session(lowered(_model(arrays, attributes), tmp_path)[0])
    feed = _feed(rng, 2)
    expected = _expected(feed, arrays, attributes, "matmul")
    feed["a"][0, 4, 7] = np.inf
    got = run.run(None, feed)[0]
    assert np.isnan(got[0, 4]).all()
    assert not np.isfinite(got[0, -1]).any()  # the register takes the infinity by definition
    kept = [row for row in range(ROWS - 1) if row != 4]
    np.testing.assert_allclose(got[0, kept], expected[0, kept], rtol=0, atol=1e-5)
    assert np.isfinite(got[1]).all()


def test_folding_twice_finds_nothing_more(tmp_path: Path, rng: np.random.Generator) -> None:
    first, _ = lowered(_model(_weights(rng), _attributes()), tmp_path)
    again, reports = lower(TracedModel(path=first.path, sites={}), tmp_path / "again.onnx")
    assert {report.count for report in reports} == {0}
    assert operators(again) == operators(first)
