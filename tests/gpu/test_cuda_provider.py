"""ONNX Runtime on the GPU, where half arithmetic is real: its CPU kernels compute most half ops in FP32."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from dsr_export.backends.base import Runner
from dsr_export.backends.onnxruntime import CRASHING, OnnxRuntimeRunner
from dsr_export.backends.onnxruntime_cuda import NAME, PROVIDERS, OnnxRuntimeCudaRunner, cuda_problem
from dsr_export.backends.opening import fused_runner, typed_runner
from dsr_export.bundle.reader import MODEL, Bundle
from dsr_export.parity.golden.reader import read_golden
from graphs.precisions import Precision
from tests.gpu import checks
from tests.gpu.conftest import Built
from tests.gpu.decisions import deciding_model, decisions, walked_inputs
from tests.gpu.figures import Figures

pytestmark = pytest.mark.gpu
MARGIN_DB = 5.0  # sums inside a GEMM round, too, and in no order that is known: 3.2 were seen on an H200
AT_ONCE = 50
OpenCuda = Callable[..., OnnxRuntimeCudaRunner]


@pytest.fixture(scope="session")
def on_gpu(capability: str) -> OpenCuda:
    """Opens a bundle's graph, or `model` in its place, with the CUDA provider."""
    if (problem := cuda_problem()) is not None:
        pytest.skip(problem)

    def open_cuda(bundle: Bundle, model: Path | None = None, **options: Any) -> OnnxRuntimeCudaRunner:
        return OnnxRuntimeCudaRunner(model or bundle.file(MODEL), inputs=bundle.manifest.input_specs(), **options)

    return open_cuda


@pytest.mark.parametrize(
    ("name", "precision"),
    [("digits", "fp32"), ("digits", "fp16"), ("digits", "int8"), ("digits-outliers", "fp16")],
)
def test_the_golden_vectors_hold(
    built: Built, on_gpu: OpenCuda, figures: Figures, name: str, precision: Precision
) -> None:
    bundle = built(name, precision)
    with on_gpu(bundle) as runner:
        assert runner.name == "onnxruntime-cuda"
        report = checks.parity(bundle, runner)
    figures.record(f"cuda/{name}-{precision}/parity", checks.rows_of(report))
    assert report.passed, [row.as_dict() for row in report.rows if not row.passed]


@pytest.mark.parametrize("name", ["digits", "digits-outliers"])
def test_half_arithmetic_lies_between_the_two_on_the_cpu(
    built: Built, on_gpu: OpenCuda, figures: Figures, name: str
) -> None:
    """The witness rounds after every node, the CPU's own kernels after none: no honest half kernel is far outside."""
    bundle = built(name, "fp16")
    golden, model, specs = read_golden(bundle), bundle.file(MODEL), bundle.manifest.input_specs()
    fused = fused_runner(model, specs, "fp16")
    assert fused is not None
    runners: dict[str, Runner] = {"witness": typed_runner(model, specs, "fp16"), "fused": fused, "cuda": on_gpu(bundle)}
    found = {}
    for who, runner in runners.items():
        with runner:
            found[who] = checks.snr_db(runner, golden)
    figures.record(f"cuda/{name}-fp16/snr_db", found)
    assert found["witness"] - MARGIN_DB <= found["cuda"] <= found["fused"] + MARGIN_DB


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_tensors_stay_on_the_gpu(
    built: Built, on_gpu: OpenCuda, figures: Figures, tmp_path: Path, precision: Precision
) -> None:
    """What the provider has no kernel for goes to the CPU, and tensors cross the bus: sizes alone may be made there."""
    bundle = built("digits-outliers" if precision == "fp16" else "digits", precision)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    session = onnxruntime.InferenceSession(
        str(bundle.file(MODEL)),
        options,
        providers=[(name, dict(own)) for name, own in PROVIDERS],
        disabled_optimizers=list(CRASHING),
    )
    session.run(None, dict(read_golden(bundle).cases[1].inputs))
    events = json.loads(Path(session.end_profiling()).read_text())
    ran = [event["args"] for event in events if event.get("cat") == "Node" and "provider" in event["args"]]
    placed = Counter((event["provider"], event["op_name"]) for event in ran)
    figures.record(f"cuda/{bundle.path.stem}/nodes", {" ".join(key): count for key, count in sorted(placed.items())})
    elsewhere = [event for event in ran if event["provider"] != NAME and not _makes_sizes(event)]
    assert len(ran) > len(elsewhere) == 0, Counter(event["op_name"] for event in elsewhere)
    assert not any(op.startswith("Memcpy") for _, op in placed)


def _makes_sizes(event: dict[str, Any]) -> bool:
    """Whether all that a profiled node made is a shape or a part of one, which the host needs to launch anything."""
    made = [(kind, shape) for output in event["output_type_shape"] for kind, shape in output.items()]
    return all(kind == "int64" and len(shape) <= 1 for kind, shape in made)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_same_tokens_are_replaced(
    built: Built, on_gpu: OpenCuda, tmp_path: Path, figures: Figures, precision: Precision
) -> None:
    """The decisions of FP32 on the CPU, for every step of the golden trajectory."""
    exact, half = built("digits-outliers", "fp32"), built("digits-outliers", precision)
    with OnnxRuntimeRunner(exact.file(MODEL), inputs=exact.manifest.input_specs()) as runner:
        inputs = walked_inputs(exact, runner)
    with OnnxRuntimeRunner(deciding_model(exact, tmp_path / "fp32"), inputs=exact.manifest.input_specs()) as runner:
        wanted = decisions(runner, inputs, exact)
    with on_gpu(half, deciding_model(half, tmp_path / precision)) as runner:
        found = decisions(runner, inputs, half)
    replaced = sum(int(mask.sum()) for mask in wanted.values())
    others = sum(int((mask != found[name]).sum()) for name, mask in wanted.items())
    figures.record(f"cuda/digits-outliers-{precision}/replaced", {"in_fp32": replaced, "otherwise": others})
    assert replaced > 0 and wanted.keys() == found.keys()
    for name, mask in wanted.items():
        np.testing.assert_array_equal(found[name], mask)


@pytest.mark.parametrize("name", ["digits", "digits-outliers"])
def test_graphs_make_the_numbers_of_the_stream(built: Built, figures: Figures, on_gpu: OpenCuda, name: str) -> None:
    """Every batch has its own, and is left and met again."""
    bundle = built(name, "fp16")
    golden = read_golden(bundle)
    with on_gpu(bundle, graphs="never") as stream, on_gpu(bundle, graphs="always") as graph:
        for _ in range(2):
            for size, case in golden.cases.items():
                wanted = stream.infer(dict(case.inputs))
                for _ in range(4):
                    assert checks.equal(graph.infer(dict(case.inputs)), wanted), size
        problems = [each.problem for each in graph.replays.of.values()]
    figures.record(f"cuda/{name}-fp16/graphs", problems)
    assert problems == [None] * len(golden.cases)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_equal_calls_give_equal_bits(built: Built, on_gpu: OpenCuda, precision: Precision) -> None:
    bundle = built("digits", precision)
    with on_gpu(bundle) as runner:
        checks.check_repeats(runner, read_golden(bundle))


def test_two_sessions_work_at_once(built: Built, on_gpu: OpenCuda) -> None:
    """Each in a thread and a stream of its own, with batches of its own: the numbers of one alone."""
    bundle = built("digits", "fp16")
    golden = read_golden(bundle)
    with on_gpu(bundle) as runner:
        alone = {size: runner.infer(dict(case.inputs)) for size, case in golden.cases.items()}

    def work(sizes: list[int]) -> bool:
        with on_gpu(bundle) as runner:
            made = [(size, runner.infer(dict(golden.cases[size].inputs))) for size in sizes * AT_ONCE]
        return all(checks.equal(each, alone[size]) for size, each in made)

    sizes = sorted(golden.cases)
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(work, [sizes, sizes[::-1]])) == [True, True]


def test_a_thousand_calls_keep_no_memory(built: Built, on_gpu: OpenCuda, figures: Figures) -> None:
    bundle = built("digits", "fp16")
    with on_gpu(bundle) as runner:
        grown = checks.memory_growth(runner, read_golden(bundle))
    figures.record("cuda/digits-fp16/memory_growth", grown)
    assert grown <= checks.PAGE
