from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest

from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.errors import ExportError
from graphs.artifacts import TensorSpec
from tests.backends import tiny_models


def runner(path: Path, *, optimize: bool = True) -> OnnxRuntimeRunner:
    return OnnxRuntimeRunner(path, inputs=tiny_models.specs(path), optimize=optimize, threads=1)


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("rows", [1, 3])
def test_it_computes_the_model_at_any_batch(
    tmp_path: Path, rng: np.random.Generator, optimize: bool, rows: int
) -> None:
    path = tiny_models.linear(tmp_path, width=16)
    weights = np.random.default_rng(0).standard_normal((16, 16)) / 4
    x = rng.standard_normal((rows, 16)).astype(np.float32)
    with runner(path, optimize=optimize) as session:
        made = session.infer({"x": x})
    assert list(made) == ["y"] and made["y"].dtype == np.float32
    np.testing.assert_allclose(made["y"], np.maximum(x @ weights, 0), atol=1e-5)


def test_bytes_and_path_give_equal_bits(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tiny_models.linear(tmp_path, width=16)
    x = rng.standard_normal((4, 16)).astype(np.float32)
    from_bytes = OnnxRuntimeRunner(path.read_bytes(), inputs=tiny_models.specs(path))
    first, second = (each.infer({"x": x})["y"] for each in (from_bytes, runner(path)))
    assert first.tobytes() == second.tobytes()
    assert from_bytes.name == "onnxruntime"


def test_nan_passes_through(tmp_path: Path) -> None:
    path = tiny_models.save(tmp_path, "(float[batch,4] x) => (float[batch,4] y)", "y = Identity(x)")
    x = np.array([[1, np.nan, np.inf, -np.inf]], np.float32)
    np.testing.assert_array_equal(runner(path).infer({"x": x})["y"], x)


def test_wrong_inputs_are_refused(tmp_path: Path) -> None:
    session = runner(tiny_models.linear(tmp_path, width=16))
    with pytest.raises(ExportError, match="'x' is float64, and the model takes float32"):
        session.infer({"x": np.zeros((1, 16))})


def test_an_op_without_a_kernel_names_its_node_and_module(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tiny_models.save(tmp_path, "(bfloat16[batch,4] x) => (bfloat16[batch,4] y)", "y = Relu(x)")
    with pytest.raises(
        ExportError, match=r"no kernel for Relu .*'blocks\.0\.attn/Relu' \(module blocks\.0\.attn\)"
    ) as e:
        runner(path)
    assert "BF16" in (e.value.hint or "")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("content", [b"no model", None])
def test_an_unreadable_model_is_our_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ExportError, match="cannot load the model"):
        OnnxRuntimeRunner(path, inputs=[])


def test_a_failure_while_running_is_our_error_and_is_not_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    body = "s = Constant<value = int64[2]{3, 3}>() y = Reshape(x, s)"
    session = runner(tiny_models.save(tmp_path, "(float[batch,4] x) => (float[3,3] y)", body))
    with pytest.raises(ExportError, match="blocks.1.attn/Reshape"):
        session.infer({"x": np.zeros((2, 4), np.float32)})
    assert capfd.readouterr() == ("", "")


def test_declared_inputs_must_be_the_models(tmp_path: Path) -> None:
    path = tiny_models.linear(tmp_path, width=16)
    with pytest.raises(ExportError, match="where .* are declared"):
        OnnxRuntimeRunner(path, inputs=[TensorSpec(name="x", dtype="int64", shape=("batch", 16))])


def test_a_closed_session_says_so(tmp_path: Path) -> None:
    session = runner(tiny_models.linear(tmp_path, width=16))
    with session:
        pass
    with pytest.raises(ExportError, match="closed"):
        session.infer({"x": np.zeros((1, 16), np.float32)})


@pytest.mark.parametrize("optimize", [True, "constants", False])
def test_a_half_tensor_transposed_for_a_gemm_and_another_reader_crashes_no_session(
    tmp_path: Path, optimize: bool | Literal["constants"]
) -> None:
    """ONNX Runtime's MatmulTransposeFusion ends the process there."""
    body = "h = Cast<to=10>(x) t = Transpose<perm=[1,0,2]>(h) m = MatMul(t, w) s = Add(t, m) y = Cast<to=1>(s)"
    model = tiny_models.parse("(float[batch,4,4] x) => (float[4,batch,4] y)", body)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(4, dtype=np.float16), "w"))
    onnx.save(model, tmp_path / "m.onnx")
    x = np.arange(32, dtype=np.float32).reshape(2, 4, 4)
    session = OnnxRuntimeRunner(tmp_path / "m.onnx", inputs=tiny_models.specs(tmp_path / "m.onnx"), optimize=optimize)
    np.testing.assert_array_equal(session.infer({"x": x})["y"], 2 * x.transpose(1, 0, 2))


def test_a_path_that_is_no_utf_8(tmp_path: Path, rng: np.random.Generator) -> None:
    folder = tmp_path / os.fsdecode(b"m\xff")
    folder.mkdir()
    path = tiny_models.linear(folder, width=4)
    with OnnxRuntimeRunner(path, inputs=tiny_models.specs(path)) as runner:
        assert runner.infer({"x": rng.standard_normal((2, 4)).astype(np.float32)})["y"].shape == (2, 4)
    OnnxRuntimeRunner(path.read_bytes(), inputs=tiny_models.specs(path), weights=folder)
    path.with_name(path.name + ".data").write_bytes(b"1234")
    with pytest.raises(ExportError, match=r"m\\xff.* is no UTF-8"):
        OnnxRuntimeRunner(path.read_bytes(), inputs=tiny_models.specs(path), weights=folder)
    with pytest.raises(ExportError, match=r"m\\xff.* is no UTF-8"):
        OnnxRuntimeRunner(path, inputs=tiny_models.specs(path))
