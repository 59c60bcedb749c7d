"""Channel divisors folded into weights: exact where they fold, refused where something else would change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest

from graphs.files import load_inferred_graph, save_graph
from graphs.lowering import lower, optimize
from graphs.quantize.channel_division import apply_edits, divide_constant, division
from graphs.weights.gemms import WeightGemm, outer_gemms, weight_gemms
from tests.families.tiny_subjects import TINY


def _optimised(name: str, folder: Path) -> Path:
    subject = TINY[name]()
    lowered, _ = lower(subject.trace(folder / "traced.onnx"), folder / "lowered.onnx")
    return optimize(lowered, folder / "optimized.onnx")[0].path


@pytest.fixture(scope="module")
def rae_dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _optimised("rae-dit", tmp_path_factory.mktemp("rae-dit"))


def _inner(graph: gs.Graph) -> list[WeightGemm]:
    outer = outer_gemms(graph)
    return [gemm for gemm in weight_gemms(graph) if gemm.rows > 1 and gemm.node.name not in outer]


def _divided(path: Path, folder: Path) -> tuple[Path, list[str], list[str]]:
    """Divides every activation that can be, and multiplies its weights: the product stays."""
    graph, rng = load_inferred_graph(path), np.random.default_rng(0)
    folded, kept = [], []
    for gemm in _inner(graph):
        factors = rng.uniform(0.5, 2, gemm.in_features).astype(np.float32)
        edits = division(gemm.activation, factors)
        if edits is None:
            kept.append(gemm.name)
            continue
        apply_edits(edits)
        inverse = 1 / (factors[None] if gemm.transposed else factors[:, None])
        divide_constant(gemm.node, 1, inverse)
        folded.append(gemm.name)
    return save_graph(graph, folder / "divided.onnx"), folded, kept


def _run(path: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


@pytest.mark.parametrize(
    ("name", "unfoldable"),
    [
        ("dit", {"fc2"}),  # GELU
        pytest.param("rae-dit-dh", {"s_projector", "1"}, marks=pytest.mark.slow),  # conditions of every token
    ],
)
def test_folding_changes_nothing(name: str, unfoldable: set[str], tmp_path: Path) -> None:
    path = _optimised(name, tmp_path)
    divided, folded, kept = _divided(path, tmp_path)
    assert folded
    assert {each.rsplit(".", 1)[-1] for each in kept} <= unfoldable
    feeds = TINY[name]().example(2, seed=3)
    truth, made = _run(path, feeds), _run(divided, feeds)
    assert np.abs(truth - made).max() <= 1e-4 * max(1.0, np.abs(truth).max())


def _graph(body: str, shapes: str = "float[N,3,4] x") -> gs.Graph:
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> g ({shapes}) => (float[N,3,4] out) {{ {body} }}'
    )
    rng = np.random.default_rng(0)
    constants = {"w": rng.standard_normal((4, 4)), "b": rng.standard_normal(4)}
    arrays = [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
    model.graph.initializer.extend(arrays)
    return gs.import_onnx(onnx.shape_inference.infer_shapes(model))


@pytest.mark.parametrize(
    "body",
    [
        "h = Relu(x) out = MatMul(h, w)",  # a non-linearity
        "h = Mul(x, b) k = MatMul(h, w) out = Add(k, h)",  # somebody else reads it
        "h = Add(x, b) out = MatMul(h, w)",  # one side is a graph input
    ],
)
def test_what_cannot_be_folded_is_left_alone(body: str) -> None:
    graph = _graph(body)
    gemm = weight_gemms(graph)[0]
    assert division(gemm.activation, np.full(4, 2, np.float32)) is None


def test_a_constant_that_others_read_is_copied() -> None:
    graph = _graph("h = Mul(x, b) k = MatMul(h, w) out = Mul(k, b)")
    gemm = weight_gemms(graph)[0]
    edits = division(gemm.activation, np.full(4, 2, np.float32))
    assert edits is not None
    apply_edits(edits)
    first, last = (node for node in graph.nodes if node.op == "Mul")
    np.testing.assert_allclose(first.inputs[1].values * 2, last.inputs[1].values)


def test_embedders_and_final_layers_are_outer(rae_dit: Path) -> None:
    graph = load_inferred_graph(rae_dit)
    outer = {gemm.name for gemm in weight_gemms(graph) if gemm.rows > 1 and gemm.node.name in outer_gemms(graph)}
    assert outer == {"final_layer.linear"}
    kinds = {gemm.name.split(".", 2)[-1] for gemm in _inner(graph)}
    assert kinds == {"attn.qkv", "attn.proj", "mlp.w12", "mlp.w3"}


def test_no_gemm_of_detection_is_the_models_own(rae_dit: Path) -> None:
    graph = load_inferred_graph(rae_dit)
    assert not [gemm.name for gemm in weight_gemms(graph) if "similarity" in gemm.node.name]
    assert [node for node in graph.nodes if "similarity" in node.name and node.op == "MatMul"]
