"""Codes of four bits in the graph: what the nodes compute, and how GEMMs of each layout get them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from graphs.artifacts import OptimizedModel
from graphs.errors import ExportError
from graphs.files import load_inferred_graph
from graphs.foreign.types import foreign_types
from graphs.mixed_precision.islands import PrecisionPolicy
from graphs.mixed_precision.typed import assign_precision, typed_spec
from graphs.quantize.pairing import paired_quantizers
from graphs.stage_specs import DYNAMIC_FOUR_BIT
from tests.graphs.quantize.block_gemms import INPUTS, KINDS, OUTPUTS, inputs, model, planned, product, quantised, run

ALL = pytest.mark.parametrize("kind", KINDS)
BIAS = np.linspace(-1, 1, OUTPUTS).astype(np.float32)
NAMED = {"int4": "int4", "nvfp4-weights": "nvfp4-weights", "nvfp4": "nvfp4"}


def _close(found: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4 * np.abs(wanted).max())


@ALL
@pytest.mark.parametrize("shift", [False, True])
def test_the_nodes_compute_what_the_codes_say(kind: str, shift: bool, tmp_path: Path) -> None:
    plan, x = planned(kind, shift=shift), inputs(3, 5, INPUTS)
    path = quantised(model(tmp_path / "m.onnx", "h = MatMul(x, w) out = Add(h, b)"), {"fc0": plan})
    _close(run(path, x), product(x, plan) + BIAS)
    assert list(paired_quantizers(onnx.load(path))) == []


@ALL
@pytest.mark.parametrize("attributes", ["transB=1", "transB=1, alpha=0.3, beta=2.5"])
def test_a_gemm_keeps_its_factors(kind: str, attributes: str, tmp_path: Path) -> None:
    """Scales are numbers of their format: a factor is none of theirs."""
    plan, x = planned(kind), inputs(6, INPUTS)
    source = model(tmp_path / "m.onnx", f"out = Gemm<{attributes}>(x, wt, b)", ("N", INPUTS))
    alpha, beta = (0.3, 2.5) if "alpha" in attributes else (1.0, 1.0)
    path = quantised(source, {"fc0": plan})
    _close(run(path, x), alpha * product(x, plan) + beta * BIAS)
    assert list(paired_quantizers(onnx.load(path))) == []


@ALL
@pytest.mark.parametrize(
    ("shape", "turn"),
    [
        (("N", INPUTS), [0, 1]),
        (("N", 2, 3, INPUTS), [0, 1, 2, 3]),
        (("N", 5, INPUTS), [1, 0, 2]),
        (("N", 2, 3, INPUTS), [2, 0, 1, 3]),
        ((2, 2, 3, INPUTS), [0, 1, 2, 3]),
    ],
    ids=str,
)
def test_every_layout_has_the_same_rows(
    kind: str, shape: tuple[int | str, ...], turn: list[int], tmp_path: Path
) -> None:
    """TensorRT's quantiser takes two axes or three."""
    plan = planned(kind)
    x = inputs(*(4 if size == "N" else int(size) for size in shape))
    body = f"[turn] t = Transpose<perm={turn}>(x) h = MatMul(t, w) out = Add(h, b)"
    path = quantised(model(tmp_path / "m.onnx", body, shape, turn), {"fc1": plan})
    _close(run(path, x), (product(x, plan) + BIAS).transpose(turn))
    assert list(paired_quantizers(onnx.load(path))) == []
    graph = load_inferred_graph(path)
    read = [node.inputs[0].shape for node in graph.nodes if node.op == DYNAMIC_FOUR_BIT]
    assert all(2 <= len(each) <= 3 and each[-1] == INPUTS for each in read)
    assert len(read) == (kind == "nvfp4")


def test_gemms_of_one_activation_share_its_codes(tmp_path: Path) -> None:
    body = "h = MatMul(x, w) k = MatMul(x, w2) out = Mul(h, k)"
    first, second, x = planned("nvfp4", 0), planned("nvfp4", 1), inputs(2, 5, INPUTS)
    path = quantised(model(tmp_path / "m.onnx", body), {"fc0": first, "fc1": second})
    _close(run(path, x), product(x, first) * product(x, second))
    assert [node.op_type for node in onnx.load(path).graph.node].count(DYNAMIC_FOUR_BIT) == 1
    assert list(paired_quantizers(onnx.load(path))) == []


def test_formats_may_differ_among_gemms_of_one_activation(tmp_path: Path) -> None:
    body = "h = MatMul(x, w) k = MatMul(x, w2) out = Mul(h, k)"
    first, second, x = planned("nvfp4", 0), planned("int4", 1), inputs(2, 5, INPUTS)
    path = quantised(model(tmp_path / "m.onnx", body), {"fc0": first, "fc1": second})
    _close(run(path, x), product(x, first) * product(x, second))


@ALL
@pytest.mark.parametrize("narrow", [False, True], ids=["for ONNX Runtime", "for engines"])
@pytest.mark.parametrize("shape", [("N", 5, INPUTS), ("N", 2, 3, INPUTS)], ids=str)
def test_what_lies_around_codes_is_half(kind: str, narrow: bool, shape: tuple[int | str, ...], tmp_path: Path) -> None:
    """Weights alone are no reason for FP32; a branch beside codes is none, but what makes the codes of an activation
    has its unit in FP32."""
    plan, x = planned(kind, shift=True), inputs(*(2 if size == "N" else int(size) for size in shape))
    body = "h = MatMul(x, w) k = Add(h, b) out = Tanh(k)"
    path = quantised(model(tmp_path / "m.onnx", body, shape), {"fc0": plan})
    policy = PrecisionPolicy(narrow_products=narrow)
    typed, report = assign_precision(OptimizedModel(path=path), tmp_path / "t.onnx", NAMED[kind], policy)  # type: ignore[arg-type]
    made = onnx.shape_inference.infer_shapes(onnx.load(typed.path))
    kinds = {value.name: value.type.tensor_type.elem_type for value in made.graph.value_info}
    kinds |= {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    nodes = {node.name: node for node in made.graph.node}
    (unit,) = [n.input[1] for n in made.graph.node if n.op_type == DYNAMIC_FOUR_BIT] or [None]
    assert unit is None or kinds[unit] == TensorProto.FLOAT
    islands = set(report.islands)
    codes = kind == "nvfp4" and not narrow
    assert ("fc0/MatMul" in islands) == codes
    assert kinds[nodes["fc0/MatMul"].output[0]] == (TensorProto.FLOAT if codes else TensorProto.FLOAT16)
    for role in ("narrow", "branch"):
        assert [kinds[n.output[0]] for n in made.graph.node if n.name.endswith(f"/{role}")] == (
            [TensorProto.FLOAT16] if kind == "nvfp4" else []
        )
    assert report.half_fraction > 0.5
    exact = np.tanh(product(x, plan) + BIAS)
    found = run(typed.path, x)
    assert np.abs(found - exact).mean() < 0.02 and found.dtype == np.float32


@ALL
@pytest.mark.parametrize("narrow", [False, True], ids=["for ONNX Runtime", "for engines"])
def test_a_scaled_gemm_behind_an_op_of_one_input_is_typed(kind: str, narrow: bool, tmp_path: Path) -> None:
    """Its other operand is no DequantizeLinear, whose steps could be looked at."""
    plan, x = planned(kind), inputs(6, INPUTS)
    body = "h = Tanh(x) out = Gemm<alpha = 0.5, transB = 1>(h, wt, b)"
    path = quantised(model(tmp_path / "m.onnx", body, ("N", INPUTS)), {"fc1": plan})
    policy = PrecisionPolicy(narrow_products=narrow)
    typed, _ = assign_precision(OptimizedModel(path=path), tmp_path / "t.onnx", NAMED[kind], policy)  # type: ignore[arg-type]
    exact = 0.5 * product(np.tanh(x), plan) + BIAS
    assert np.abs(run(typed.path, x) - exact).mean() < 0.05


@pytest.mark.parametrize("place", [0, 1])
@ALL
def test_gemms_that_share_what_is_dequantised_are_wide_together(kind: str, place: int, tmp_path: Path) -> None:
    """Whichever of them is beyond half: no cast stands between codes and a product."""
    body = "h = MatMul(x, w) k = MatMul(x, w2) out = Add(h, k)"
    plans, x = {"fc0": planned(kind, 0), "fc1": planned(kind, 1)}, inputs(2, 5, INPUTS)
    path = quantised(model(tmp_path / "m.onnx", body), plans)
    wide = onnx.load(path).graph.node
    output = next(node.output[0] for node in wide if node.name == f"fc{place}/MatMul")
    policy = PrecisionPolicy(narrow_products=True, wide_tensors={output: "beyond half"})
    typed, report = assign_precision(OptimizedModel(path=path), tmp_path / "t.onnx", NAMED[kind], policy)  # type: ignore[arg-type]
    assert f"fc{place}/MatMul" in report.islands
    exact = product(x, plans["fc0"]) + product(x, plans["fc1"])
    assert np.abs(run(typed.path, x) - exact).mean() < 0.02 * np.abs(exact).mean()


def test_the_quantiser_of_fp4_is_in_no_other_precision(tmp_path: Path) -> None:
    path = quantised(model(tmp_path / "m.onnx", "out = MatMul(x, w)"), {"fc0": planned("nvfp4")})
    made = onnx.load(path)
    assert foreign_types(made, "nvfp4") == []
    assert [each for each in foreign_types(made, "fp16") if each.startswith("FLOAT4E2M1 activations")]
    with pytest.raises(ExportError, match="trt.TRT_FP4DynamicQuantize, no standard op"):
        typed_spec("fp16", {}).verify(made)


@ALL
@pytest.mark.parametrize("shape", [("N", 5, INPUTS), ("N", 2, 3, INPUTS)], ids=str)
def test_a_row_with_nan_is_nan_and_no_other(kind: str, shape: tuple[int | str, ...], tmp_path: Path) -> None:
    """FP4 has none: what its quantiser makes of it is not known, so that it goes around it."""
    body = "[pick] y = Where(never, mask, x) h = MatMul(y, w) out = Add(h, b)"
    source = onnx.load(model(tmp_path / "m.onnx", body, shape))
    values = {"never": np.zeros((), bool), "mask": np.array(np.finfo(np.float32).min, np.float32)}
    source.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    onnx.save(source, tmp_path / "m.onnx")
    plan, x = planned(kind), inputs(*(3 if size == "N" else int(size) for size in shape))
    path = quantised(tmp_path / "m.onnx", {"fc1": plan})
    whole, x[1, 1, ..., 9] = run(path, x), np.nan
    made = run(path, x)
    lost = np.zeros(made.shape[:-1], bool)
    lost[1, 1] = True
    assert np.isnan(made[lost]).all()
    np.testing.assert_array_equal(made[~lost], whole[~lost])
