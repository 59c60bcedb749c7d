"""The spec of quantisers takes our graphs of four-bit codes, and names what is wrong with a broken one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphs.quantize.pairing import paired_quantizers
from graphs.stage_specs import DYNAMIC_FOUR_BIT
from tests.graphs.quantize.block_gemms import INPUTS, KINDS, OUTPUTS, model, planned, quantised


def _made(folder: Path, kind: str) -> onnx.ModelProto:
    return onnx.load(quantised(model(folder / "m.onnx", "h = MatMul(x, w) out = Add(h, b)"), {"fc0": planned(kind)}))


def _constant(model: onnx.ModelProto, name: str, values: np.ndarray) -> None:
    tensor = next(each for each in model.graph.initializer if each.name == name)
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def _nodes(model: onnx.ModelProto, role: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.name.endswith(f"/{role}")]


@pytest.mark.parametrize("kind", KINDS)
def test_our_graphs_are_right(kind: str, tmp_path: Path) -> None:
    assert list(paired_quantizers(_made(tmp_path, kind))) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 3])
def test_scales_are_one_for_each_block(kind: str, rows: int, tmp_path: Path) -> None:
    made = _made(tmp_path, kind)
    (weight,) = _nodes(made, "dequantized_weight")
    scales = weight.input[1] if kind == "int4" else _nodes(made, "dequantized_weight_steps")[0].input[0]
    kept = next(each for each in made.graph.initializer if each.name == scales)
    _constant(made, scales, numpy_helper.to_array(kept)[:1].repeat(rows, axis=0))
    assert [problem for problem in paired_quantizers(made) if "no scale for each of the weight's blocks" in problem]


@pytest.mark.parametrize("block", [48, 0])
def test_blocks_are_whole(block: int, tmp_path: Path) -> None:
    made = _made(tmp_path, "int4")
    (weight,) = _nodes(made, "dequantized_weight")
    next(each for each in weight.attribute if each.name == "block_size").i = block
    assert list(paired_quantizers(made))


def test_blocks_lie_along_the_axis_that_is_named(tmp_path: Path) -> None:
    made = _made(tmp_path, "int4")
    (weight,) = _nodes(made, "dequantized_weight")
    next(each for each in weight.attribute if each.name == "axis").i = 1
    assert [problem for problem in paired_quantizers(made) if "no scale for each" in problem]


def test_one_unit_makes_scales_and_is_multiplied_back(tmp_path: Path) -> None:
    made = _made(tmp_path, "nvfp4")
    (steps,) = _nodes(made, "values_steps")
    _constant(made, steps.input[1], np.array(0.5, np.float32))
    assert [problem for problem in paired_quantizers(made) if "different units" in problem]
    (quantizer,) = [node for node in made.graph.node if node.op_type == DYNAMIC_FOUR_BIT]
    _constant(made, quantizer.input[1], np.array(0.5, np.float32))
    assert list(paired_quantizers(made)) == []


@pytest.mark.parametrize("role", ["values", "dequantized_weight"])
def test_values_are_read_by_gemms_alone(role: str, tmp_path: Path) -> None:
    made = _made(tmp_path, "nvfp4")
    made.graph.node.append(onnx.helper.make_node("Relu", [_nodes(made, role)[0].output[0]], ["r"], name="odd"))
    assert [problem for problem in paired_quantizers(made) if "odd, which is no GEMM" in problem]


def test_scales_are_read_by_dequantisers_alone(tmp_path: Path) -> None:
    made = _made(tmp_path, "nvfp4")
    made.graph.node.append(onnx.helper.make_node("Relu", [_nodes(made, "values_steps")[0].output[0]], ["r"], name="o"))
    assert list(paired_quantizers(made))


def test_a_weight_of_other_codes_needs_its_zero(tmp_path: Path) -> None:
    """Codes per channel tell their type by a zero point; those of blocks need none."""
    made = _made(tmp_path, "int4")
    (weight,) = _nodes(made, "dequantized_weight")
    del weight.attribute[:]
    _constant(made, weight.input[1], np.ones(OUTPUTS, np.float32))
    _constant(made, weight.input[0], np.ones((INPUTS, OUTPUTS), np.int8))
    assert [problem for problem in paired_quantizers(made) if "no constant zero point" in problem]
