"""A whole step of the sampler in one call: in ONNX Runtime on the GPU and in an engine, with its tensors left there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dsr_export.backends.base import Runner
from dsr_export.backends.onnxruntime_cuda import OnnxRuntimeCudaRunner, cuda_problem
from dsr_export.backends.steps import stepping
from dsr_export.backends.tensorrt.runner import TensorRTRunner
from dsr_export.bundle.reader import Bundle
from dsr_export.config import ExportConfig
from dsr_export.drawing.drawn import draw
from dsr_export.parity.checks.fused_step import check_step
from dsr_export.parity.golden.reader import read_golden
from dsr_export.parity.golden.vectors import image_batch
from dsr_export.sampling import fused_trajectory
from dsr_export.verification.runtime_checks import golden_sampler, step_candidate
from graphs.sampling.fused_step import step_inputs
from graphs.targets import Target
from tests.gpu.conftest import BATCH
from tests.gpu.engine_kinds import engine_kind, opened_here
from tests.gpu.figures import Figures

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, stage_cache: Path, capability: str) -> Bundle:
    pytest.importorskip("torch", reason="bundles with steps are built here")
    from dsr_export.pipeline import export

    out = tmp_path_factory.mktemp("steps") / "steps.dsr"
    return export(ExportConfig(precision="fp16", batch=BATCH, targets=("onnxruntime",), out=out, fuse_step=True))


@pytest.fixture(params=["onnxruntime-cuda", "rtx:current", "tensorrt"])
def runner(bundle: Bundle, request: pytest.FixtureRequest, capability: str) -> Iterator[Runner]:
    cuda = request.param == "onnxruntime-cuda"
    with _cuda(bundle) if cuda else _engine(bundle, opened_here(engine_kind(request.param, capability)).target) as made:
        yield made


def _cuda(bundle: Bundle) -> Runner:
    if (problem := cuda_problem()) is not None:
        pytest.skip(problem)
    return OnnxRuntimeCudaRunner(bundle.file(str(bundle.step_graph)), inputs=step_inputs(bundle.manifest.input_specs()))


def _engine(bundle: Bundle, where: Target) -> Runner:
    from dsr_export.backends.tensorrt.build import build_engine

    golden, inputs = read_golden(bundle), step_inputs(bundle.manifest.input_specs())
    sampler = golden_sampler(bundle, golden)
    assert sampler is not None
    images = image_batch(bundle.manifest.batch_range(), sampler)
    graph = bundle.file(str(bundle.engine_step_graph))
    plan = bytes(build_engine(graph, where, batch=images, inputs=inputs).plan)
    return TensorRTRunner(plan, backend=where.backend, inputs=inputs)


def test_its_numbers_are_in_tolerance(runner: Runner, bundle: Bundle, figures: Figures) -> None:
    report = check_step(step_candidate(bundle, runner, read_golden(bundle)), lambda done, of: None)
    figures.record(f"step/{runner.name}", {row.check: row.comparison.snr_db for row in report.rows})
    assert [row.check for row in report.rows if not row.passed] == []
    assert report.passed


def test_tensors_that_stay_make_the_numbers_of_those_that_do_not(runner: Runner, bundle: Bundle) -> None:
    golden = read_golden(bundle)
    sampler, start = golden_sampler(bundle, golden), golden.trajectory
    assert sampler is not None and start is not None
    walks = [fused_trajectory(call, sampler, start.noise, start.labels) for call in (stepping(runner), runner.infer)]
    for there, here in zip(*walks, strict=True):
        np.testing.assert_array_equal(np.asarray(there.state), np.asarray(here.state))


def test_samples_are_those_of_the_cpu(bundle: Bundle) -> None:
    if (problem := cuda_problem()) is not None:
        pytest.skip(problem)
    asked = {"label": None, "count": 5, "seed": 3, "steps": 20, "guidance": None, "progress": lambda done, of: None}
    there, here = (draw(bundle, runtime=each, **asked) for each in ("onnxruntime-cuda", "onnxruntime"))  # type: ignore[arg-type]
    error = np.square(there - here).mean()
    assert error < 1e-4 * np.square(here).mean()  # 40 dB, as FP16's outputs are held to
