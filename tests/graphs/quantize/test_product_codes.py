"""Products that are handed on as codes: what they stand for in each form, and where they stay floats."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from dsr_export.backends.tensorrt.build import build_engine
from dsr_export.config import BatchRange
from graphs.artifacts import QuantizedModel
from graphs.files import load_inferred_graph, save_graph
from graphs.forms import FORMS, FormName
from graphs.mixed_precision.islands import PrecisionPolicy
from graphs.mixed_precision.typed import assign_precision
from graphs.precisions import Precision
from graphs.quantize.formats import FP8
from graphs.quantize.gemms import quantize_gemms
from graphs.quantize.product_codes import drop_product_codes, join_product_steps
from graphs.quantize.quantizers import Activation, QuantizedGemm, held_step
from graphs.targets import target
from tests.backends.tiny_models import specs

TOKENS, WIDTH, OUT = 5, 48, 24
REACH = 6.0
"""The largest product that is a code, in steps of its weight: of even rows, whose numbers are at most 1."""
BODY = "h = MatMul(x, w) out = Add(h, b)"
WEIGHT = np.random.default_rng(0).standard_normal((WIDTH, OUT)).astype(np.float32) * np.geomspace(
    0.1, 10, OUT, dtype=np.float32
)
X = np.random.default_rng(1).standard_normal((2, TOKENS, WIDTH)).astype(np.float32)


def _planned(rows: str = "dynamic", *, scale: float = 1.0) -> QuantizedGemm:
    steps = (np.abs(WEIGHT).max(axis=0) / 127).astype(np.float32)
    reach = REACH * 127 * (1 if rows == "dynamic" else 4)
    return QuantizedGemm(
        codes=np.rint(WEIGHT / steps).astype(np.int8),
        weight_steps=np.asarray(steps * scale, np.float32),
        activation=Activation(step=1 / 127 if rows == "dynamic" else 4 / 127, rows=rows),  # type: ignore[arg-type]
        bias_shift=np.linspace(0, 1, OUT, dtype=np.float32),
        product_steps=np.asarray(steps * scale * reach / 127, np.float32),
    )


def _quantised(folder: Path, planned: QuantizedGemm, body: str = BODY) -> Path:
    shape = f"float[N,{TOKENS},{OUT}]"
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> g (float[N,{TOKENS},{WIDTH}] x) => ({shape} out) {{ {body} }}'
    )
    arrays = {"w": WEIGHT, "b": np.linspace(-1, 1, OUT, dtype=np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in arrays.items())
    for node in model.graph.node:
        node.name = f"fc/{node.op_type}" if node.op_type in ("MatMul", "Gemm") else f"m/{node.output[0]}"
    onnx.save(model, folder / "m.onnx")
    graph = load_inferred_graph(folder / "m.onnx")
    quantize_gemms(graph, {"fc": planned})
    return save_graph(graph, folder / "q.onnx")


def _run(path: Path, x: np.ndarray = X) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def _expected(planned: QuantizedGemm, *, coded: bool, x: np.ndarray = X) -> np.ndarray:
    assert planned.activation is not None and planned.product_steps is not None
    factors = np.abs(x).max(axis=2, keepdims=True) if planned.activation.rows == "dynamic" else np.float32(1)
    step = held_step(planned.activation.step)
    product = np.clip(np.rint(x / factors / step), -128, 127) * step @ (planned.codes * planned.weight_steps)
    if coded:
        product = np.clip(np.rint(product / planned.product_steps), -128, 127) * planned.product_steps
    return np.asarray(product * factors + np.linspace(-1, 1, OUT) + planned.bias_shift, np.float32)


def _operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def _typed(source: Path, form: FormName, precision: Precision = "int8") -> Path:
    policy = PrecisionPolicy(narrow_products=FORMS[form].narrow_products)
    path = source.with_name(f"{form}.onnx")
    return assign_precision(QuantizedModel(path=source), path, precision, policy)[0].path


def _difference(made: np.ndarray, wanted: np.ndarray, planned: QuantizedGemm) -> np.ndarray:
    """In codes of the product, without its rows."""
    assert planned.activation is not None and planned.product_steps is not None
    factors = np.abs(X).max(axis=2, keepdims=True) if planned.activation.rows == "dynamic" else 1.0
    return np.asarray(np.abs(made - wanted) / factors / planned.product_steps)


@pytest.mark.parametrize("rows", ["none", "dynamic"])
def test_the_product_is_what_its_codes_stand_for(rows: str, tmp_path: Path) -> None:
    planned = _planned(rows)
    made = _run(_quantised(tmp_path, planned))
    off = _difference(made, _expected(planned, coded=True), planned)
    assert (off < 0.01).mean() > 0.99 and off.max() < 1.01  # where a product lies between two codes
    assert _difference(made, _expected(planned, coded=False), planned).max() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("rows", ["none", "dynamic"])
def test_onnxruntimes_form_keeps_floats(rows: str, tmp_path: Path) -> None:
    planned = _planned(rows)
    path = _typed(_quantised(tmp_path, planned), "onnxruntime")
    assert _operators(path)["QuantizeLinear"] == 1
    np.testing.assert_allclose(_run(path), _expected(planned, coded=False), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", ["none", "dynamic"])
def test_engines_get_one_factor_of_the_weight_and_one_of_the_product(rows: str, tmp_path: Path) -> None:
    planned = _planned(rows)
    path = _typed(_quantised(tmp_path, planned), "engine")
    model = onnx.load(path)
    scales = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    sizes = [scales[node.input[1]].size for node in model.graph.node if node.op_type == "DequantizeLinear"]
    assert sizes == [1, 1, 1]  # of the input, the weight and the product
    off = _difference(_run(path), _expected(planned, coded=True), planned)
    assert (off < 0.2).mean() > 0.9 and off.max() < 1.2  # the product is half before its codes are made


def test_products_of_fp8_are_codes_of_fp8(tmp_path: Path) -> None:
    """In the form for engines with one factor, as they take it; numbers are those of a weight with steps by channel."""
    steps = np.asarray(np.abs(WEIGHT).max(axis=0) / FP8.largest, np.float32)
    numbers = FP8.nearest(WEIGHT / steps)
    step = held_step(4 / FP8.largest)
    planned = QuantizedGemm(
        codes=FP8.codes(numbers),
        weight_steps=steps,
        activation=Activation(step=float(step), format=FP8),
        product_steps=np.asarray(steps * REACH, np.float32),
    )
    path = _typed(_quantised(tmp_path, planned), "engine", "fp8")
    nodes = [node for node in onnx.load(path).graph.node if node.op_type == "QuantizeLinear"]
    kinds = {each.name: each.data_type for each in onnx.load(path).graph.initializer}
    assert [kinds[node.input[2]] for node in nodes] == [FP8.type] * 2
    product = FP8.nearest(X / step) * step @ (numbers * steps)
    wanted = FP8.nearest(product / planned.product_steps) * planned.product_steps + np.linspace(-1, 1, OUT)
    off = np.abs(_run(path) - wanted) / np.maximum(np.abs(wanted), np.abs(wanted).mean(axis=(0, 1)))
    assert np.median(off) < 1e-3 and off.max() < 0.14  # half a step further where a product lies between two codes


def test_codes_are_dropped_without_a_trace(tmp_path: Path) -> None:
    planned = _planned()
    graph = load_inferred_graph(_quantised(tmp_path, planned))
    assert drop_product_codes(graph) == 1
    dropped = save_graph(graph, tmp_path / "dropped.onnx")
    plain = _quantised(tmp_path, dataclasses.replace(planned, product_steps=None))
    assert _operators(dropped) == _operators(plain)
    np.testing.assert_array_equal(_run(dropped), _run(plain))


@pytest.mark.parametrize(
    "planned",
    [
        dataclasses.replace(_planned(), product_steps=np.linspace(1, 2, OUT, dtype=np.float32)),
        _planned(scale=1e-6),
        _planned(scale=1e7),
        _planned(scale=1e3),
    ],
    ids=["no proportion", "below half", "beyond half", "beyond half times 127"],
)
def test_what_no_factor_fits_stays_floats_in_engines(planned: QuantizedGemm, tmp_path: Path) -> None:
    graph = load_inferred_graph(_quantised(tmp_path, planned))
    assert join_product_steps(graph) == []
    path = save_graph(graph, tmp_path / "joined.onnx")
    assert _operators(path)["QuantizeLinear"] == 1
    np.testing.assert_allclose(_run(path), _expected(planned, coded=False), rtol=1e-4, atol=1e-4 * np.abs(WEIGHT).max())


@pytest.mark.parametrize("alpha", [2.0, -1.0])
def test_a_gemms_own_factor_is_in_the_steps(alpha: float, tmp_path: Path) -> None:
    """And its sign in the codes: TensorRT takes positive steps alone."""
    body = f"r = Reshape(x, s) h = Gemm<alpha = {alpha}>(r, w) k = Reshape(h, t) out = Add(k, b)"
    body = f"s = Constant<value_ints = [-1, {WIDTH}]>() t = Constant<value_ints = [-1, {TOKENS}, {OUT}]>() " + body
    planned = dataclasses.replace(_planned("none"), bias_shift=np.zeros(OUT, np.float32))
    path = _quantised(tmp_path, planned, body)
    assert _operators(path)["QuantizeLinear"] == 2
    steps = [numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer if "steps" in each.name]
    assert len(steps) == 2 and all((each > 0).all() for each in steps)
    bias = np.linspace(-1, 1, OUT)
    wanted = (_expected(planned, coded=True) - bias) * alpha + bias
    assert np.quantile(_difference(_run(path), wanted, planned), 0.99) < 0.05


def test_a_row_of_nan_stays_one(tmp_path: Path) -> None:
    """A code is a number: the rows say where none was."""
    body = "m = Log(x) h = MatMul(m, w) out = Add(h, b)"
    x = np.abs(X)
    x[1, 2, 0] = -1
    made = _run(_typed(_quantised(tmp_path, _planned(), body), "engine"), x)
    assert np.isnan(made[1, 2]).all() and np.isfinite(np.delete(made.reshape(-1, OUT), TOKENS + 2, axis=0)).all()


@given(exponents=st.lists(st.integers(-6, 6), min_size=OUT, max_size=OUT), reach=st.floats(1, 1e5))
def test_whatever_the_sizes_of_channels_codes_stand_for_the_same(
    exponents: list[int], reach: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("sizes")
    steps = (np.abs(WEIGHT).max(axis=0) / 127 * 2.0 ** np.array(exponents)).astype(np.float32)
    planned = dataclasses.replace(
        _planned(), weight_steps=steps, product_steps=np.asarray(steps * np.float32(reach), np.float32)
    )
    graph = load_inferred_graph(_quantised(folder, planned))
    before = _run(folder / "q.onnx")
    joined = join_product_steps(graph)
    made = _run(save_graph(graph, folder / "joined.onnx"))
    wanted = before if joined else _expected(planned, coded=False)
    off = _difference(made, wanted, planned)
    assert off.max() < 1.2 if joined else np.allclose(made, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())


def test_an_engines_gemm_writes_the_codes_itself(tmp_path: Path) -> None:
    """One factor and no bias in between: else it would write half, and another kernel the codes."""
    pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")
    body = "m = Relu(x) h = MatMul(m, w) k = Add(h, b) out = Tanh(k)"
    path = _typed(_quantised(tmp_path, _planned(), body), "engine")
    facts = build_engine(path, target("rtx"), batch=BatchRange(2, 2, 2), inputs=specs(path)).facts
    (gemm,) = [each for each in facts["schedule"]["launches"] if each["kind"] == "gemm"]
    assert gemm["written"] == {"int8": 2 * TOKENS * OUT}
    assert [(each["computes"], each["chosen"]) for each in facts["schedule"]["gemms"]] == [("int8", "int8")]
