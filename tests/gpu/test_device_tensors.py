"""Tensors that stay on the GPU, in ONNX Runtime and in an engine, and those of torch, read where they lie."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsr_export.backends.cuda.device_tensor import DeviceRunner
from dsr_export.backends.onnxruntime_cuda import OnnxRuntimeCudaRunner, cuda_problem
from dsr_export.backends.tensorrt.engine_fit import rtx_supports
from dsr_export.backends.tensorrt.runner import TensorRTRunner
from dsr_export.bundle.reader import MODEL, Bundle
from dsr_export.parity.golden.reader import read_golden
from graphs.targets import target
from tests.gpu import checks
from tests.gpu.conftest import Built

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def bundle(built: Built) -> Bundle:
    return built("digits", "fp16")


@pytest.fixture(scope="module")
def plan(bundle: Bundle, capability: str) -> bytes:
    pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")
    pytest.importorskip("cuda.bindings", reason="needs the rtx extra")
    if not rtx_supports(capability):
        pytest.skip(f"TensorRT-RTX does not support compute capability {capability}")
    from dsr_export.backends.tensorrt.build import build_engine

    manifest = bundle.manifest
    where = {"batch": manifest.batch_range(), "inputs": manifest.inputs}
    return bytes(build_engine(bundle.file(bundle.engine_graph), target("rtx:current"), **where).plan)


def opened(kind: str, bundle: Bundle, request: pytest.FixtureRequest, **options: Any) -> Any:
    """ONNX Runtime on the GPU, or the engine."""
    if kind == "engine":
        plan = request.getfixturevalue("plan")
        return TensorRTRunner(plan, backend="tensorrt_rtx", inputs=bundle.manifest.inputs, **options)
    if (problem := cuda_problem()) is not None:
        pytest.skip(problem)
    return OnnxRuntimeCudaRunner(bundle.file(MODEL), inputs=bundle.manifest.inputs)


@pytest.fixture(params=["onnxruntime-cuda", "engine"])
def runner(bundle: Bundle, request: pytest.FixtureRequest) -> Iterator[DeviceRunner]:
    with opened(request.param, bundle, request) as made:
        yield made


def test_tensors_on_the_gpu_make_the_numbers_of_arrays(runner: DeviceRunner, bundle: Bundle) -> None:
    checks.check_on_device(runner, read_golden(bundle))


def test_an_output_may_be_the_next_input(runner: DeviceRunner, bundle: Bundle) -> None:
    checks.check_carried(runner, read_golden(bundle))


def test_graphs_make_the_numbers_of_the_stream(bundle: Bundle, request: pytest.FixtureRequest) -> None:
    golden = read_golden(bundle)
    made = {}
    for graphs in ("never", "always"):
        with opened("engine", bundle, request, graphs=graphs) as engine:
            for case in golden.cases.values():
                for _ in range(4):
                    made[graphs, len(case.inputs["x"])] = engine.infer(dict(case.inputs))
            if graphs == "always":
                assert [each.problem for each in engine.replays.of.values()] == [None] * len(golden.cases)
    for size in golden.cases:
        assert checks.equal(made["never", size], made["always", size])


def test_torch_reads_and_gives_tensors_without_a_copy(runner: DeviceRunner, bundle: Bundle) -> None:
    torch = pytest.importorskip("torch", reason="a device may have no torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch sees no GPU")
    inputs = read_golden(bundle).cases[2].inputs
    wanted = runner.infer(dict(inputs))["out"]
    given = {name: torch.from_numpy(array.copy()).cuda() for name, array in inputs.items()}
    for _ in range(4):
        tensor = runner.infer_on_device(given)["out"]
        made = torch.from_dlpack(tensor)
        assert made.data_ptr() == tensor.pointer
        del tensor
        np.testing.assert_array_equal(made.cpu().numpy(), wanted)


@pytest.mark.parametrize("kind", ["onnxruntime-cuda", "engine"])
def test_a_tensor_outlives_its_runner(kind: str, bundle: Bundle, request: pytest.FixtureRequest) -> None:
    torch = pytest.importorskip("torch", reason="a device may have no torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch sees no GPU")
    inputs = read_golden(bundle).cases[2].inputs
    with opened(kind, bundle, request) as runner:
        wanted = runner.infer(dict(inputs))["out"]
        held = {name: runner.upload(array) for name, array in inputs.items()}
        made = torch.from_dlpack(runner.infer_on_device(held)["out"])
    del runner, held
    np.testing.assert_array_equal(made.cpu().numpy(), wanted)


def test_kernels_are_kept_for_the_next_start(bundle: Bundle, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    inputs, said = dict(read_golden(bundle).cases[2].inputs), list[str]()
    made = []
    for _ in range(2):
        with opened("engine", bundle, request, cache=tmp_path / "kept" / "rtx.bin", say=said.append) as engine:
            made.append(engine.infer(inputs))
    assert checks.equal(*made)
    assert sum("takes a while" in each for each in said) == 1  # at the second start there is nothing to say
