"""The CUDA provider's runner on a stand-in. On a real GPU: the tests marked `gpu`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from dsr_export.backends.cuda import diagnosis
from dsr_export.backends.cuda.device_tensor import DeviceRunner
from dsr_export.backends.gpu import gpu_available
from dsr_export.backends.onnxruntime_cuda import NAME, OnnxRuntimeCudaRunner, cuda_problem
from dsr_export.bundle.reader import Bundle
from dsr_export.errors import ExportError, RunnerError
from dsr_export.parity.golden.reader import read_golden
from tests.backends import tiny_models
from tests.backends.cuda_stand_in import CudaStandIn, stand_in
from tests.conftest import Cli
from tests.gpu import checks

SIGNATURE = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:154 std::conditional_t<THRW, void, "
    "onnxruntime::common::Status> onnxruntime::CudaCall(ERRTYPE, const char*) [with ERRTYPE = cublasStatus_t; "
    "std::conditional_t<THRW, void, common::Status> = void] /onnxruntime_src/onnxruntime/core/providers/cuda/"
    "cuda_call.cc:146 std::conditional_t<THRW, void, onnxruntime::common::Status> onnxruntime::CudaCall(" + "x" * 600
) + ") "


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[CudaStandIn]:
    yield stand_in(monkeypatch)
    cuda_problem.cache_clear()


def opened(path: Path, said: list[str] | None = None) -> OnnxRuntimeCudaRunner:
    say = None if said is None else said.append
    return OnnxRuntimeCudaRunner(path, inputs=tiny_models.specs(path), say=say)


def test_fp32_is_computed_in_fp32_and_nothing_races(provider: CudaStandIn, tmp_path: Path) -> None:
    opened(tiny_models.linear(tmp_path, width=16))
    (asked,) = provider.asked
    assert [name for name, _ in asked] == [NAME, "CPUExecutionProvider"]
    fixed = {"device_id": "0", "use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"}
    assert dict(asked)[NAME] == {**fixed, "enable_cuda_graph": "1"}


def test_arrays_and_tensors_on_the_device_give_the_same(
    provider: CudaStandIn, tmp_path: Path, rng: np.random.Generator
) -> None:
    x = rng.standard_normal((3, 16)).astype(np.float32)
    with opened(tiny_models.linear(tmp_path, width=16)) as runner:
        assert isinstance(runner, DeviceRunner) and runner.name == "onnxruntime-cuda"
        first = runner.infer({"x": x})["y"]
        on_device = runner.infer_on_device({"x": runner.upload(x)})["y"]
        np.testing.assert_array_equal(on_device.numpy(), first)
        again = runner.infer_on_device({"x": on_device})["y"]
        np.testing.assert_array_equal(again.numpy(), runner.infer({"x": first})["y"])
        np.testing.assert_array_equal(on_device[2].numpy(), first[2])
    with pytest.raises(RunnerError, match="closed"):
        runner.infer({"x": x})


def test_the_checks_that_a_gpu_is_given_hold_here(provider: CudaStandIn, denoiser_bundle: Path) -> None:
    bundle = Bundle.open(denoiser_bundle)
    with OnnxRuntimeCudaRunner(bundle.file("model.onnx"), inputs=bundle.manifest.inputs) as runner:
        checks.check_on_device(runner, read_golden(bundle))
        checks.check_carried(runner, read_golden(bundle))


def test_tensors_on_the_device_are_checked_as_arrays_are(provider: CudaStandIn, tmp_path: Path) -> None:
    with opened(tiny_models.linear(tmp_path, width=16)) as runner:
        with pytest.raises(ExportError, match="'x' is float16, and the model takes float32"):
            runner.infer_on_device({"x": runner.upload(np.zeros((1, 16), np.float16))})
        with pytest.raises(ExportError, match="'x' is missing"):
            runner.infer_on_device({})


def test_nodes_that_fall_back_are_named_and_sizes_are_not(provider: CudaStandIn, tmp_path: Path) -> None:
    body = "s = Shape(x) z = Cast<to=6>(s) s2 = Cast<to=7>(z) r = Reshape(x, s2) u = Sinh(r) y = Relu(u)"
    path = tiny_models.save(tmp_path, "(float[batch,4] x) => (float[batch,4] y)", body)
    provider.on_cpu = {"Shape", "Cast", "Sinh"}
    said: list[str] = []
    assert opened(path, said).on_cpu == ("blocks.4.attn/Sinh",)
    assert said == ["1 nodes run on the CPU, without a kernel for CUDA: blocks.4.attn/Sinh"]


def test_an_older_runtime_is_asked_by_a_profile_of_its_first_run(
    provider: CudaStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in's profile is of the CPU: every node is named, but for those that make sizes."""
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info", None)
    monkeypatch.chdir(tmp_path)
    body = "s = Shape(x) z = Concat<axis=0>(s) r = Reshape(x, z) u = Sinh(r) y = Relu(u)"
    path = tiny_models.save(tmp_path, "(float[batch,4] x) => (float[batch,4] y)", body)
    said: list[str] = []
    with opened(path, said) as runner:
        assert (runner.on_cpu, said) == (None, [])
        for _ in range(2):
            runner.infer({"x": np.ones((2, 4), np.float32)})
        assert runner.on_cpu is not None and {"blocks.3.attn/Sinh", "blocks.4.attn/Relu"} <= {*runner.on_cpu}
        assert not any("Shape" in name and "Reshape" not in name for name in runner.on_cpu)
        assert len(said) == 1 and "blocks.3.attn/Sinh" in said[0]
    with opened(path):
        pass  # closed before it has run
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("CUDA failure 2: out of memory ; GPU=0", "too little free memory", "nvidia-smi"),
        ("Failed to allocate memory for requested buffer of size 9", "too little free memory", "nvidia-smi"),
        ("CUDA failure 35: CUDA driver version is insufficient", "driver is too old", "update the driver"),
        (SIGNATURE + "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0", "too little free memory", "nvidia-smi"),
        (SIGNATURE + "CUBLAS failure 1: CUBLAS_STATUS_NOT_INITIALIZED ; GPU=0", "does not start", "nvidia-smi"),
        (SIGNATURE + "CUDA failure 719: unspecified launch failure ; GPU=0", r"GPU: CUDA failure 719: unsp", None),
        ("CUDNN_STATUS_EXECUTION_FAILED", "failed on the GPU: CUDNN_STATUS", None),
    ],
)
def test_a_failing_gpu_says_what_it_lacks(
    provider: CudaStandIn, tmp_path: Path, text: str, message: str, hint: str | None
) -> None:
    from dsr_export.cli.printing.errors import explained

    provider.failure = text
    with opened(tiny_models.linear(tmp_path, width=4)) as runner, pytest.raises(RunnerError, match=message) as caught:
        runner.infer({"x": np.zeros((1, 4), np.float32)})
    assert hint is None or hint in str(caught.value.hint)
    assert explained(caught.value)[0] == caught.value.message  # and no lack of the host's memory


CAUSES: dict[str, tuple[dict[str, Any], str, str]] = {
    "wheel": ({"providers": ["CPUExecutionProvider"]}, "the installed onnxruntime.* has no CUDAExec", "pip uninstall"),
    "driver": ({"gpu": "there is no NVIDIA driver here"}, "no NVIDIA driver", "pass the GPU into the container"),
    "library": (
        {"library": "libcudnn.so.9: cannot open shared object file: No such file"},
        r"libcudnn\.so\.9 is missing",
        r'pip install "onnxruntime-gpu[cuda,cudnn]"',
    ),
    "none": ({"starts": False}, "did not start", "update the NVIDIA driver"),
}


@pytest.mark.parametrize("case", CAUSES)
def test_a_provider_that_cannot_start_is_an_error_with_its_cause(
    provider: CudaStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    given, message, hint = CAUSES[case]
    provider.starts = given.get("starts", True)
    if "providers" in given:
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: given["providers"])
    monkeypatch.setattr(diagnosis, "gpu_problem", lambda: given.get("gpu"))
    monkeypatch.setattr(diagnosis, "_load_error", lambda library: given.get("library", ""))
    with pytest.raises(ExportError, match=message) as caught:
        opened(tiny_models.linear(tmp_path, width=4))
    assert type(caught.value) is ExportError  # no verdict rests on it
    assert hint in str(caught.value.hint) and "--runtime onnxruntime" in str(caught.value.hint)
    assert str(cuda_problem()) == caught.value.message


def test_two_wheels_over_one_another_are_told(monkeypatch: pytest.MonkeyPatch, provider: CudaStandIn) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(diagnosis, "_version", lambda package: "1.31.1")
    found = diagnosis.no_provider(NAME)
    assert found is not None and "are both installed" in found.message


@pytest.mark.skipif(gpu_available(), reason="there is a GPU here")
def test_without_a_gpu_every_command_says_so(denoiser_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    with np.load(denoiser_bundle / "golden.npz") as golden:
        np.savez(tmp_path / "in.npz", **{name: golden[f"batch2/in/{name}"] for name in ("x", "t", "y")})
    files = ("--input", tmp_path / "in.npz", "--output", tmp_path / "out.npz")
    for command in (("verify",), ("run", *files), ("sample", "-o", tmp_path / "s.png")):
        done = cli(command[0], denoiser_bundle, "--runtime", "onnxruntime-cuda", *command[1:])
        assert (done.code, done.out) == (1, "")
        assert "ONNX Runtime cannot use a GPU here" in done.err and "--runtime onnxruntime" in done.err
    assert not (tmp_path / "out.npz").exists() and not (tmp_path / "s.png").exists()


def test_verify_judges_it_and_run_and_sample_use_it(
    provider: CudaStandIn, pipeline_bundle: Path, cli: Cli, tmp_path: Path
) -> None:
    done = cli("verify", pipeline_bundle, "--runtime", "onnxruntime-cuda", "--json")
    report = json.loads(done.out)
    assert done.code == 0 and {row["runtime"] for row in report["parity"]} == {"onnxruntime-cuda"}
    made, asked = tmp_path / "s.png", len(provider.asked)
    drawn = cli("sample", pipeline_bundle, "--runtime", "onnxruntime-cuda", "--count", "1", "--steps", "3", "-o", made)
    assert drawn.code == 0 and made.is_file(), drawn.err
    assert "crosses the bus at every step: build with --fuse-step" in " ".join(drawn.err.split())
    assert [NAME in dict(each) for each in provider.asked[asked:]] == [True, True]  # the denoiser, and its decoder


def test_wrong_numbers_on_the_gpu_are_searched_there(
    provider: CudaStandIn, denoiser_bundle: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU is right: what is compared site by site is the graph on the GPU."""
    real = OnnxRuntimeCudaRunner.infer

    def wrong(runner: OnnxRuntimeCudaRunner, inputs: dict[str, Any]) -> dict[str, Any]:
        return {name: value * np.asarray(1.5, value.dtype) for name, value in real(runner, inputs).items()}

    monkeypatch.setattr(OnnxRuntimeCudaRunner, "infer", wrong)
    before = len(provider.asked)
    done = cli("verify", denoiser_bundle, "--runtime", "onnxruntime-cuda", "--json")
    report = json.loads(done.out)
    assert done.code == 3 and report["bisection"]["site"] is not None
    assert [NAME in dict(each) for each in provider.asked[before:]] == [True, True]  # to judge, and to search


def test_the_plugin_knows_every_runtime() -> None:
    from dsr_export.backends.runtime_names import RUNTIMES
    from dsr_export.pytest_plugin import RUNTIMES as LISTED

    assert LISTED == RUNTIMES


def test_finding_libraries_prints_nothing(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcudart.so.13"), raising=False)
    diagnosis.find_libraries.__wrapped__()
    assert capfd.readouterr() == ("", "")
