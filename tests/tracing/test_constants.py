"""Every constant of a module is in its graphs: in FP32 after tracing, in FP16 where a half would lose it.

Halves are computed by NumPy, one rounding per node: ONNX Runtime would compute them in FP32.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from calibration.range_audit import RangeRecorder
from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.subject import Subject
from dsr_export.subjects.module import subject_from
from graphs.artifacts import OptimizedModel
from graphs.lowering import lower, optimize
from graphs.mixed_precision.islands import PrecisionPolicy
from graphs.mixed_precision.typed import TypingReport, assign_precision
from graphs.observe.probes import RANGES, add_range_probes
from tests.constant_forms import BEYOND_HALF, EPSILONS, OTHERS, WIDTH, Forms, Timed, inputs

Array = np.ndarray
Infer = Callable[[dict[str, Array]], dict[str, Array]]
PADDINGS = {"as drawn": 0.5, "zero tokens": 0.0, "small tokens": 1e-3}


@dataclass(frozen=True)
class Built:
    """A subject, the graph that all precisions are made of, and what was measured on its example inputs."""

    subject: Subject
    optimized: OptimizedModel
    policy: PrecisionPolicy


def _built(module: nn.Module, examples: dict[str, Tensor], folder: Path) -> Built:
    subject = subject_from((module, examples), name="own", called="own", provenance={})
    optimized, _ = optimize(lower(subject.trace(folder / "t.onnx"), folder / "l.onnx")[0], folder / "o.onnx")
    recorder = RangeRecorder(add_range_probes(optimized, folder / "p.onnx"))
    with OnnxRuntimeRunner(folder / "p.onnx", inputs=subject.inputs) as runner:
        recorder.observe(runner.infer({name: value.numpy() for name, value in examples.items()})[RANGES])
    audit = recorder.audit()
    return Built(subject, optimized, PrecisionPolicy(wide_tensors=audit.wide_tensors("fp16"), maxima=audit.maxima))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """All forms, measured on inputs without padding: that an epsilon stands alone somewhere, nobody saw."""
    return _built(Forms({**EPSILONS, **OTHERS, **BEYOND_HALF}), inputs(0.5), tmp_path_factory.mktemp("forms"))


def _half(built: Built, folder: Path) -> tuple[Infer, TypingReport]:
    typed, report = assign_precision(built.optimized, folder / "h.onnx", "fp16", built.policy)
    evaluator = ReferenceEvaluator(onnx.load(typed.path))

    def infer(feeds: dict[str, Array]) -> dict[str, Array]:
        with np.errstate(all="ignore"):
            return dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True))

    return infer, report


def _feeds(padding: float) -> dict[str, Array]:
    return {name: value.numpy() for name, value in inputs(padding).items()}


def _wrong(built: Built, infer: Infer, decibels: float, *, without: Collection[str] = ()) -> dict[str, str]:
    """Output and padding -> what is wrong, over all paddings."""
    found = {}
    for called, padding in PADDINGS.items():
        with torch.no_grad():
            truth = {name: value.numpy() for name, value in built.subject.module(**inputs(padding)).items()}
        made = infer(_feeds(padding))
        for name in truth.keys() - set(without):
            assert np.isfinite(truth[name]).all(), name
            error = _error(truth[name], made[name])
            if not error < 10 ** (-decibels / 20):
                found[f"{name}, {called}"] = f"relative error {error:.2g}"
    return found


def _error(truth: Array, made: Array) -> float:
    return float(np.linalg.norm(made - truth) / max(np.linalg.norm(truth), 1e-3))


@pytest.mark.parametrize("optimised", [True, False])
def test_a_traced_graph_holds_every_constant(optimised: bool, built: Built) -> None:
    with OnnxRuntimeRunner(built.optimized.path, inputs=built.subject.inputs, optimize=optimised) as runner:
        assert _wrong(built, runner.infer, 80) == {}


def test_a_half_graph_keeps_in_fp32_what_halves_would_lose(built: Built, tmp_path: Path) -> None:
    infer, report = _half(built, tmp_path)
    assert _wrong(built, infer, 45, without=BEYOND_HALF) == {}
    assert not any(name.startswith("a/") for name in report.islands), "the GEMM itself needs no FP32"


def test_sinusoids_of_large_angles_are_fp32_whatever_their_module_is_called(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    t, x = torch.rand(4, generator=draw), torch.randn(4, WIDTH, generator=draw)
    examples = {"x": x, "t": t, "position": torch.randint(0, 300, (4, 2), generator=draw)}
    timed = _built(Timed(), examples, tmp_path)
    with torch.no_grad():
        truth = timed.subject.module(**examples).numpy()
    infer, report = _half(timed, tmp_path)
    made = infer({name: value.numpy() for name, value in examples.items()})
    assert _error(truth, made["out"]) < 1e-3
    assert not any(name.startswith("a/") for name in report.islands)
