"""Real builds by TensorRT-RTX, which needs no GPU for them."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest

from dsr_export.backends.cuda.driver import Cuda
from dsr_export.backends.gpu import gpu_available
from dsr_export.backends.tensorrt import build as tensorrt
from dsr_export.backends.tensorrt import runner as tensorrt_runner
from dsr_export.backends.tensorrt import vendor
from dsr_export.backends.tensorrt.build import Engine, build_engine
from dsr_export.backends.tensorrt.runner import TensorRTRunner
from dsr_export.config import BatchRange
from dsr_export.errors import ExportError, RunnerError
from graphs.artifacts import TensorSpec
from graphs.targets import Target, target
from tests.backends import tiny_models
from tests.backends.tensorrt.driver_stand_in import Driver

BATCH = BatchRange(1, 2, 4)
RELU = ("(float[batch,4] x) => (float[batch,4] y)", "y = Relu(x)")


def build(path: Path, name: str | Target = "rtx", *, inputs: Sequence[TensorSpec] | None = None) -> Engine:
    pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")
    where = target(name) if isinstance(name, str) else name
    return build_engine(path, where, batch=BATCH, inputs=tiny_models.specs(path) if inputs is None else inputs)


def unchecked(monkeypatch: pytest.MonkeyPatch) -> Target:
    """`rtx` without our own checks, to see what the parser and the builder say."""
    monkeypatch.setattr(tensorrt, "check_model", lambda model, where: None)
    return target("rtx")


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize("name", ["rtx", "rtx:sm80", "rtx:sm86", "rtx:sm89", "rtx:sm120", "rtx:sm121"])
def test_every_ahead_of_time_target_builds(tmp_path: Path, name: str, half: bool) -> None:
    engine = build(tiny_models.linear(tmp_path, width=16, half=half), name)
    assert len(engine.plan) == engine.facts["plan_bytes"] > 1000
    capability = target(name).compute_capability
    assert engine.facts["compute_capabilities"] == ([capability] if capability else [])


def test_builds_are_byte_deterministic_and_differ_by_gpu(tmp_path: Path) -> None:
    path = tiny_models.linear(tmp_path, width=64)
    first, again, other = build(path, "rtx:sm89"), build(path, "rtx:sm89"), build(path, "rtx:sm86")
    assert first.plan == again.plan
    assert first.plan != other.plan


def test_half_weights_halve_the_plan(tmp_path: Path) -> None:
    """A silently ignored precision would leave the plan at its FP32 size."""
    full = build(tiny_models.linear(tmp_path, width=1024))
    half = build(tiny_models.linear(tmp_path, width=1024, half=True))
    assert full.facts["plan_bytes"] > 4 * 1024**2
    assert half.facts["plan_bytes"] < 0.62 * full.facts["plan_bytes"]


def test_the_facts_say_what_was_built(tmp_path: Path) -> None:
    engine = build(tiny_models.linear(tmp_path, width=16, half=True), "rtx:sm89")
    facts = json.loads(json.dumps(engine.facts))
    assert facts["tool"] == "tensorrt_rtx" and facts["version"].startswith("1.")
    assert facts["target"] == "rtx:sm89"
    assert facts["platform"] == {"system": platform.system(), "machine": platform.machine()}
    assert facts["plan_sha256"] == hashlib.sha256(engine.plan).hexdigest()
    assert facts["profile"] == {"x": {"min": [1, 16], "opt": [2, 16], "max": [4, 16]}}
    assert facts["tf32"] is False and facts["strongly_typed"] is True
    entry = {"dtype": "float32", "declared_dtype": "float32", "declared_shape": ["batch", 16], "shape": [-1, 16]}
    assert facts["inputs"] == [{"name": "x", **entry}]
    assert facts["outputs"] == [{"name": "y", **entry}]
    # The weights, the cast in, MatMul and Relu in FP16; the cast back in FP32.
    assert facts["layers"] == 5 and facts["layer_output_types"] == {"float16": 4, "float32": 1}
    assert facts["seconds"] > 0


def test_progress_is_told_what_begins(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")
    path, told = tiny_models.save(tmp_path, *RELU), []
    build_engine(path, target("rtx"), batch=BATCH, inputs=tiny_models.specs(path), progress=told.append)
    assert told == ["parsing model.onnx", "building for rtx"]


def test_builds_are_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    build(tiny_models.save(tmp_path, "(float[batch,4] x, int64[batch] unused) => (float[batch,4] y)", "y = Relu(x)"))
    assert capfd.readouterr() == ("", "")


def test_an_unsupported_op_names_its_node_and_module_before_any_build(tmp_path: Path) -> None:
    path = tiny_models.save(tmp_path, "(float[4,4] x) => (int64[2,n] y)", "r = Relu(x) y = NonZero(r)")
    with pytest.raises(ExportError, match=r"NonZero.*blocks\.1\.attn/NonZero \(module blocks\.1\.attn\)"):
        build(path)


def test_a_parser_error_names_its_node_and_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_models.save(tmp_path, "(float[4,4] x) => (int64[2,n] y)", "r = Relu(x) y = NonZero(r)")
    with pytest.raises(
        ExportError, match=r"node 'blocks\.1\.attn/NonZero' \(NonZero, module blocks\.1\.attn\)"
    ) as error:
        build(path, unchecked(monkeypatch))
    assert "--target onnxruntime" in (error.value.hint or "")


def test_a_parser_error_that_knows_no_node_names_those_of_its_op(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = 'i = Constant<value=int64[2]{0,1}>() r = Relu(x) y = ScatterElements<reduction="add">(r, i, u)'
    path = tiny_models.save(tmp_path, "(float[4] x, float[2] u) => (float[4] y)", body)
    with pytest.raises(ExportError, match=r"'blocks\.2\.attn/ScatterElements' .*Unsupported reduction"):
        build(path, unchecked(monkeypatch))


def test_a_builder_error_names_the_node_that_the_log_quotes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "k = Constant<value=int64[1]{3841}>() y, i = TopK(x, k)"
    path = tiny_models.save(tmp_path, "(float[4000] x) => (float[3841] y)", body)
    with pytest.raises(ExportError, match=r"at node 'blocks\.1\.attn/TopK' .*K exceeds the maximum value allowed"):
        build(path, unchecked(monkeypatch))


def test_a_changed_type_is_an_error(tmp_path: Path) -> None:
    path = tiny_models.save(tmp_path, "(double[batch,4] x) => (double[batch,4] y)", "y = Relu(x)")
    with pytest.raises(ExportError, match="change the type of x from float64 to float32, y from"):
        build(path)


def test_a_changed_shape_is_an_error(tmp_path: Path) -> None:
    path = tiny_models.save(tmp_path, "(float[2,4] x) => (float[2,5] y)", "y = Relu(x)")
    with pytest.raises(ExportError, match=r"declared \[2, 5\], and TensorRT makes \[2, 4\]"):
        build(path)


@pytest.mark.parametrize(
    "spec",
    [
        TensorSpec(name="z", dtype="float32", shape=("batch", 4)),
        TensorSpec(name="x", dtype="int64", shape=("batch", 4)),
        TensorSpec(name="x", dtype="float32", shape=("batch", 5)),
    ],
    ids=["name", "dtype", "shape"],
)
def test_inputs_other_than_declared_are_an_error(tmp_path: Path, spec: TensorSpec) -> None:
    with pytest.raises(ExportError, match="where .* are declared"):
        build(tiny_models.save(tmp_path, *RELU), inputs=[spec])


@pytest.mark.parametrize("package", ["tensorrt_rtx", "polygraphy"])
def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    path = tiny_models.save(tmp_path, *RELU)
    if package == "polygraphy":
        pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")
    with pytest.raises(ExportError, match=f"'{package}' is not installed") as caught:
        build_engine(path, target("rtx"), batch=BATCH, inputs=tiny_models.specs(path))
    assert caught.value.hint == "pip install 'dsr-export[rtx]'"


def test_a_missing_tensorrt_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ExportError, match="'tensorrt' is not installed") as caught:
        vendor.load_vendor("tensorrt")
    assert caught.value.hint == "pip install 'dsr-export[tensorrt]'"
    assert vendor.installed_version("tensorrt") is None


def test_one_process_cannot_switch_backends() -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")
    vendor.load_vendor("tensorrt_rtx")
    with pytest.raises(ExportError, match="cannot switch to TensorRT$"):
        vendor._choose(rtx=False)


def test_an_engine_of_another_version_is_refused(tmp_path: Path) -> None:
    old = dataclasses.replace(target("rtx"), version=">=1.0,<1.1")
    with pytest.raises(ExportError, match=r"needs tensorrt_rtx >=1\.0,<1\.1, and 1\.\d"):
        build(tiny_models.save(tmp_path, *RELU), old)


@pytest.mark.parametrize(("here", "said"), [(None, "has none"), ("9.0", "compute capability 9.0, not 8.7")])
def test_device_targets_need_their_own_gpu(monkeypatch: pytest.MonkeyPatch, here: str | None, said: str) -> None:
    monkeypatch.setattr(tensorrt, "compute_capability", lambda: here)
    with pytest.raises(ExportError, match=said) as caught:
        tensorrt._check_gpu(target("jetson-orin"))
    assert "dsr-export compile BUNDLE --target jetson-orin" in (caught.value.hint or "")


@pytest.mark.parametrize(("here", "told"), [("9.0", True), ("8.9", False), ("7.5", False), (None, False)])
def test_a_failed_build_names_a_gpu_that_rtx_is_not_made_for(
    monkeypatch: pytest.MonkeyPatch, here: str | None, told: bool
) -> None:
    monkeypatch.setattr(tensorrt, "compute_capability", lambda: here)
    with pytest.raises(ExportError, match="it will not") as caught, tensorrt._gpu_named(target("rtx:current")):
        raise ExportError("it will not", hint="do else")
    assert ("not made for GPUs of compute capability 9.0" in caught.value.message) is told
    assert ("--target trt10" in str(caught.value.hint)) is told


def test_a_build_for_other_gpus_is_not_judged_by_the_one_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "compute_capability", lambda: "9.0")
    with pytest.raises(ExportError, match="^it will not$"), tensorrt._gpu_named(target("rtx:sm89")):
        raise ExportError("it will not")


def test_onnxruntime_has_no_engine(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="has no engine"):
        build(tiny_models.save(tmp_path, *RELU), "onnxruntime")


def test_linked_external_data_never_reaches_the_parser(tmp_path: Path) -> None:
    path = tiny_models.linear(tmp_path, width=32)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.data", size_threshold=0)
    assert build(path).facts["plan_bytes"] > 1000
    (tmp_path / "weights.data").rename(tmp_path / "elsewhere")
    (tmp_path / "weights.data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ExportError, match=r"tensor 'w': '.*weights\.data' is a symbolic link"):
        build(path)


@pytest.mark.skipif(gpu_available(), reason="there is a driver here")
def test_a_driver_that_is_too_old_for_tensorrt_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT-RTX itself says so where there is no driver at all; a stand-in for ours lets it come to that."""
    engine, path = build(tiny_models.linear(tmp_path, width=4)), tmp_path / "full.onnx"
    driver = Driver()
    monkeypatch.setattr(tensorrt_runner, "require_gpu", lambda: None)
    monkeypatch.setattr(tensorrt_runner, "open_cuda", lambda: Cuda(driver))
    with pytest.raises(RunnerError, match="the NVIDIA driver is too old for tensorrt_rtx 1.*cudaError 35"):
        TensorRTRunner(bytes(engine.plan), backend="tensorrt_rtx", inputs=tiny_models.specs(path))
    assert driver.held == {} and driver.current == []
