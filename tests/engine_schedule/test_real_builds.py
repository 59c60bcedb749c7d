"""Plans that TensorRT-RTX makes: the schedule is that of the graph, whatever is in it and however it was built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from dsr_export.backends.tensorrt.build import build_engine
from dsr_export.config import BatchRange
from graphs.targets import target
from tests.backends.tiny_models import parse, specs

SIGNATURE = "(float[batch,64,32] x) => (float[batch,64,32] y)"
ATTENTION = """
    h = Cast<to=10>(x) g = MatMul(h, w) s = Transpose<perm=[0,2,1]>(g) m = MatMul(g, s) p = Softmax<axis=-1>(m)
    o = MatMul(p, g) y = Cast<to=1>(o)
"""
INTEGER = """
    s = Constant<value_float=0.02>() z = Constant<value=int8 {0}>() q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z) v = DequantizeLinear(w, s, z) y = MatMul(d, v)
"""


EIGHT_BITS = INTEGER.replace("int8 {0}", "float8e4m3fn {0}")
WEIGHTS = """
    h = Cast<to=10>(x) s = Constant<value_float=0.02>() z = Constant<value=int8 {0}>() v = DequantizeLinear(w, s, z)
    c = Cast<to=10>(v) g = MatMul(h, c) y = Cast<to=1>(g)
"""


def _schedule(folder: Path, body: str, weight: np.dtype[Any], batch: tuple[int, int, int], name: str = "rtx") -> Any:
    pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")
    model = parse(SIGNATURE, body)
    values = np.random.default_rng(0).standard_normal((32, 32)) * (100 if weight == np.int8 else 0.2)
    model.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(weight), "w"))
    path = folder / "model.onnx"
    onnx.save(model, path)
    facts = build_engine(path, target(name), batch=BatchRange(*batch), inputs=specs(path)).facts
    assert facts["schedule_problem"] is None
    return facts["schedule"]


def test_a_fused_attention_at_the_batch_that_the_engine_is_tuned_for(tmp_path: Path) -> None:
    ranged = _schedule(tmp_path, ATTENTION, np.dtype(np.float16), (1, 2, 4))
    assert ranged["batch"] == 2 and ranged["attention"] == {"fused": 1, "of": 1, "apart": [], "because": {}}
    (attention,) = [each for each in ranged["launches"] if each["kind"] == "attention"]
    assert attention["computes"] == "float16" and attention["operations"] == 2 * 2 * 2 * 64 * 64 * 32
    assert [each["computes"] for each in ranged["gemms"]] == ["float16"]
    assert ranged["launches"][0]["read"] == {"float32": 2 * 64 * 32 * 4}
    fixed = _schedule(tmp_path, ATTENTION, np.dtype(np.float16), (3, 3, 3), "rtx:sm89")
    (same,) = [each for each in fixed["launches"] if each["kind"] == "attention"]
    assert fixed["batch"] == 3 and 2 * same["operations"] == 3 * attention["operations"]


def test_fp32_attention_is_several_kernels(tmp_path: Path) -> None:
    body = ATTENTION.replace("Cast<to=10>(x)", "Identity(x)").replace("Cast<to=1>(o)", "Identity(o)")
    found = _schedule(tmp_path, body, np.dtype(np.float32), (2, 2, 2))
    assert found["attention"]["fused"] == 0 and found["attention"]["of"] == 1
    assert found["kinds"]["gemm"]["launches"] == 3


@pytest.mark.parametrize(
    ("body", "kind", "computes"),
    [(EIGHT_BITS, onnx.TensorProto.FLOAT8E4M3FN, "float8e4m3"), (WEIGHTS, onnx.TensorProto.INT8, "float16 x int8")],
)
def test_gemms_of_other_codes_compute_as_the_graph_says(tmp_path: Path, body: str, kind: int, computes: str) -> None:
    """Weights that become floats inside of the kernel are read as codes, and count as those."""
    weight = onnx.helper.tensor_dtype_to_np_dtype(kind)
    (gemm,) = _schedule(tmp_path, body, weight, (1, 2, 4), "rtx:sm89")["gemms"]
    assert (gemm["computes"], gemm["chosen"], gemm["chosen_integer"]) == (computes, computes, False)


def test_an_integer_gemm_says_so(tmp_path: Path) -> None:
    found = _schedule(tmp_path, INTEGER, np.dtype(np.int8), (1, 2, 4))
    assert [(each["computes"], each["chosen"], each["chosen_integer"]) for each in found["gemms"]] == [
        ("int8", "int8", True)
    ]
    (gemm,) = [each for each in found["launches"] if each["kind"] == "gemm"]
    assert gemm["read"]["int8"] == 2 * 64 * 32 + 32 * 32


@pytest.mark.parametrize(
    ("signature", "body", "least"),
    [
        ("(float[batch,8,4,4] x) => (float[batch,8,2,2] y)", "y = MaxPool<kernel_shape=[2,2],strides=[2,2]>(x)", 1),
        ("(float[batch,32] x) => (float[batch,1] y)", "y = MatMul(x, w)", 3),
        ("(float[batch,2,16,32] x) => (float[batch,2,16,1] y)", "y = MatMul(x, w)", 1),
        ("(float[batch,8,8] x) => (float[batch,4,8] y, int64[batch,4,8] i)", "y, i = TopK<axis=1>(x, four)", 1),
        ("(float[batch,3,8,8] x) => (float[batch,3,4,4] y)", "y = Resize(x, none, half)", 1),
    ],
)
def test_other_kernels_and_sizes_are_known_too(signature: str, body: str, least: int, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")
    model = parse(signature, body)
    given = {"w": np.ones((32, 1), np.float32), "four": np.array([4]), "none": np.zeros(0, np.float32)}
    given["half"] = np.array([1, 1, 0.5, 0.5], np.float32)
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(given[name], name) for name in sorted(used & set(given))
    )
    onnx.save(model, tmp_path / "model.onnx")
    inputs = specs(tmp_path / "model.onnx")
    facts = build_engine(tmp_path / "model.onnx", target("rtx"), batch=BatchRange(1, 2, 4), inputs=inputs).facts
    assert facts["schedule_problem"] is None
    assert len(facts["schedule"]["launches"]) >= least
