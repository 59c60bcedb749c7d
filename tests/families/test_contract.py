"""What every family must do: trace, lower with exactly its sites, agree in ONNX Runtime, fit FP16, build an engine."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest

from calibration.collect import Call
from calibration.methods import OUTLIER_AWARE
from calibration.policy import select
from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.config import BatchRange
from dsr_export.parity.metrics import compare
from dsr_export.parity.tolerances import TOLERANCES
from dsr_export.subject import Subject
from graphs.artifacts import OptimizedModel, TypedModel
from graphs.files import load_inferred_graph
from graphs.lowering import lower, optimize
from graphs.mixed_precision.islands import PrecisionPolicy
from graphs.mixed_precision.typed import assign_precision
from graphs.names import is_lowered
from graphs.precisions import Precision
from graphs.rewrites import LOWERINGS
from graphs.targets import TARGETS, check_model
from tests.comparisons.models import Graph
from tests.comparisons.ours import measure, quantised
from tests.families.tiny_subjects import TINY
from tests.graphs.optimizing import fused_operators

IN_INT8 = ("rae-dit", "dit", "sd3", "flux")  # one of each kind of block


@dataclasses.dataclass(frozen=True)
class Exported:
    """A tiny subject and its typed graphs; `optimized` is what they are made of."""

    subject: Subject
    optimized: Path
    typed: dict[Precision, TypedModel]
    rewritten: dict[str, int]


RARELY = ("sit", "jit", "pixart", "sd3", "flux", "rae-dit-dh", "diffusers-dit")  # tested elsewhere, or variants


@pytest.fixture(
    scope="module",
    params=[pytest.param(each, marks=pytest.mark.slow) if each in RARELY else each for each in TINY],
)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder: Path = tmp_path_factory.mktemp(request.param)
    subject = TINY[request.param]()
    traced = subject.trace(folder / "traced.onnx")
    lowered, reports = lower(traced, folder / "lowered.onnx")
    optimized, _ = optimize(lowered, folder / "optimized.onnx")
    policy = PrecisionPolicy()
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    typed = {p: assign_precision(optimized, folder / f"{p}.onnx", p, policy)[0] for p in precisions}
    return Exported(subject, optimized.path, typed, {report.name: report.count for report in reports})


def test_every_declared_site_is_lowered(exported: Exported) -> None:
    sites = exported.subject.dsr.sites()
    for op, rewrites in LOWERINGS:
        assert sum(exported.rewritten.get(rewrite.name, 0) for rewrite in rewrites) == sites[op], op
    domains = {node.domain for node in onnx.load(exported.typed["fp32"].path).graph.node}
    assert domains == {""}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_onnxruntime_agrees_with_pytorch(exported: Exported, precision: Precision, batch: int) -> None:
    inputs = exported.subject.example(batch, seed=batch)
    with exported.subject.reference() as reference:
        expected = reference.infer(inputs)
    with OnnxRuntimeRunner(exported.typed[precision].path, inputs=exported.subject.inputs) as runner:
        got = runner.infer(inputs)
    assert set(got) == set(expected)
    for name, truth in expected.items():
        found = compare(truth, got[name])
        assert found.within(TOLERANCES[precision]), (name, found)


def test_every_weight_is_half(exported: Exported) -> None:
    """Of an embedder of timesteps, too: what is FP32 in it is the way to its sines, and they. Decisions are FP32."""
    graph = onnx.load(exported.typed["fp16"].path).graph
    types = {each.name: each.data_type for each in graph.initializer}
    gemms = [node for node in graph.node if node.op_type in ("MatMul", "Gemm", "Conv") and not is_lowered(node.name)]
    found = {name: types[name] for node in gemms for name in node.input[1:2] if name in types}
    assert found
    assert not [name for name, kind in found.items() if kind != onnx.TensorProto.FLOAT16]


@pytest.mark.parametrize(
    "exported",
    [each if each in IN_INT8 else pytest.param(each, marks=pytest.mark.slow) for each in TINY],
    indirect=True,
)
def test_int8_keeps_the_numbers_in_integer_kernels(exported: Exported, tmp_path: Path) -> None:
    graph = Graph(exported.optimized, exported.subject.card())
    stats = measure(graph, [_call(exported.subject, i) for i in range(4)])
    path = quantised(graph, stats, OUTLIER_AWARE, tmp_path / "int8.onnx")
    inputs = exported.subject.example(5, seed=99)
    with graph.runner() as runner:
        expected = runner.infer(inputs)
    for optimized in (False, True):
        with OnnxRuntimeRunner(path, inputs=exported.subject.inputs, optimize=optimized) as runner:
            got = runner.infer(inputs)
        for name, truth in expected.items():
            assert _median_snr_db(truth, got[name]) > 25, name
    policy = PrecisionPolicy()
    typed, _ = assign_precision(OptimizedModel(path=path), tmp_path / "typed.onnx", "int8", policy)  # its spec holds
    with OnnxRuntimeRunner(typed.path, inputs=exported.subject.inputs) as runner:
        got = runner.infer(inputs)
    assert all(_median_snr_db(truth, got[name]) > 25 for name, truth in expected.items())
    fused = fused_operators(onnx.load(path), str(tmp_path / "fused.onnx"))
    wide = select(load_inferred_graph(exported.optimized), (), exported.subject.outer_modules).integer
    assert fused.count("MatMulIntegerToFloat") >= len(wide)
    assert "DequantizeLinear" not in fused


def _median_snr_db(truth: np.ndarray, got: np.ndarray) -> float:
    """Over the images: in random weights, a token may lie so near a threshold that rounding decides."""
    rows = [compare(truth[i : i + 1], got[i : i + 1]).snr_db or 0.0 for i in range(len(truth))]
    return float(np.median(rows))


def _call(subject: Subject, i: int) -> Call:
    return Call(subject.example(4, seed=i), np.arange(4) + 4 * i, np.full(4, i / 4))


def test_an_engine_builds(exported: Exported) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the rtx extra is not installed")
    from dsr_export.backends.tensorrt.build import build_engine

    path = exported.typed["fp16"].path
    engine = build_engine(path, TARGETS["rtx"], batch=BatchRange(1, 2, 3), inputs=exported.subject.inputs)
    assert engine.facts["layer_output_types"]["float16"] > 0


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_takes_the_graph(exported: Exported, name: str) -> None:
    check_model(exported.typed["fp16"].path, TARGETS[name])
