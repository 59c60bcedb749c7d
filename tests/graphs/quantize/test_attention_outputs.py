"""Projections of what attention makes, whose codes would cost an engine more than they spare."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from dsr_export.backends.tensorrt.build import build_engine
from dsr_export.config import BatchRange
from graphs.artifacts import QuantizedModel
from graphs.files import load_inferred_graph, save_graph
from graphs.forms import FORMS, FormName
from graphs.mixed_precision.islands import PrecisionPolicy
from graphs.mixed_precision.typed import assign_precision
from graphs.quantize import attention_outputs
from graphs.quantize.attention_outputs import LAUNCH, project_floats, projects_floats
from graphs.quantize.gemms import quantize_gemms
from graphs.quantize.quantizers import Activation, QuantizedGemm
from graphs.targets import target
from graphs.weights.gemms import weight_gemms
from tests.backends.tiny_models import specs

HEADS, TOKENS, HEAD = 2, 16, 32
WIDTH = HEADS * HEAD
FRONT = """
    h = Reshape(x, heads) q = Transpose<perm=[0,2,1,3]>(h) k = Transpose<perm=[0,2,3,1]>(h) s = MatMul(q, k)
    p = Softmax<axis=-1>(s) a = MatMul(p, q) t = Transpose<perm=[0,2,1,3]>(a) r = Reshape(t, rows)
"""
PROJECTED = FRONT + "m = MatMul(r, w) out = Add(m, b) e = MatMul(x, v)"
"""And another GEMM beside it: one alone would keep its codes."""
X = np.random.default_rng(1).standard_normal((2, TOKENS, WIDTH)).astype(np.float32)


def _planned(rows: str = "dynamic", outputs: int = WIDTH) -> QuantizedGemm:
    weight = np.random.default_rng(0).standard_normal((WIDTH, outputs)).astype(np.float32)
    steps = (np.abs(weight).max(axis=0) / 127).astype(np.float32)
    factors = np.linspace(1, 3, TOKENS, dtype=np.float32) if rows == "static" else None
    return QuantizedGemm(
        codes=np.rint(weight / steps).astype(np.int8),
        weight_steps=steps,
        activation=Activation(step=1 / 127, rows=rows, row_factors=factors),  # type: ignore[arg-type]
        bias_shift=np.linspace(0, 1, outputs, dtype=np.float32),
    )


def _quantised(
    folder: Path,
    planned: QuantizedGemm,
    body: str = PROJECTED,
    outputs: int = WIDTH,
    plans: tuple[str, ...] = ("proj", "other"),
) -> Path:
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> g (float[N,{TOKENS},{WIDTH}] x) => '
        f"(float[N,{TOKENS},{outputs}] out, float[N,{TOKENS},{WIDTH}] e) {{ {body} }}"
    )
    arrays = {"heads": np.array([0, 0, HEADS, HEAD]), "rows": np.array([0, 0, WIDTH])}
    arrays |= {"w": np.zeros((WIDTH, outputs), np.float32), "b": np.linspace(-1, 1, outputs).astype(np.float32)}
    arrays["v"] = np.eye(WIDTH, dtype=np.float32)
    model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in arrays.items())
    names = {"m": "proj/MatMul", "e": "other/MatMul"}
    for node in model.graph.node:
        node.name = names.get(node.output[0], f"m/{node.output[0]}")
    onnx.save(model, folder / "m.onnx")
    graph = load_inferred_graph(folder / "m.onnx")
    other = dataclasses.replace(_planned("none"), bias_shift=None)
    quantize_gemms(graph, {name: {"proj": planned, "other": other}[name] for name in plans})
    return save_graph(graph, folder / "q.onnx")


def _projected(path: Path, wide: tuple[str, ...] = ()) -> tuple[list[str], Path]:
    graph = load_inferred_graph(path)
    found = project_floats(graph, wide)
    return found, save_graph(graph, path.with_name("floats.onnx"))


def _foreseen(folder: Path, planned: QuantizedGemm) -> bool:
    """Of the graph before it had codes."""
    (gemm,) = (gemm for gemm in weight_gemms(load_inferred_graph(folder / "m.onnx")) if gemm.name == "proj")
    assert planned.activation is not None
    return projects_floats(gemm, planned.activation)


def _run(path: Path, x: np.ndarray = X) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["out"], {"x": x})[0])


def _expected(planned: QuantizedGemm, x: np.ndarray = X) -> np.ndarray:
    """Attention and its projection in double precision, with the numbers that the weight's codes stand for."""
    q = x.astype(np.float64).reshape(-1, TOKENS, HEADS, HEAD).swapaxes(1, 2)
    scores = np.exp(q @ q.swapaxes(2, 3))
    made = (scores / scores.sum(axis=-1, keepdims=True) @ q).swapaxes(1, 2).reshape(-1, TOKENS, WIDTH)
    weight = planned.codes * planned.weight_steps.astype(np.float64)
    return np.asarray(made @ weight + np.linspace(-1, 1, len(planned.weight_steps)) + planned.bias_shift)


def _operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("rows", ["dynamic", "static"])
@pytest.mark.parametrize("coded", [False, True], ids=["", "with codes of the product"])
def test_the_weight_is_what_its_codes_stand_for(rows: str, coded: bool, tmp_path: Path) -> None:
    planned = _planned(rows)
    if coded:
        planned = dataclasses.replace(planned, product_steps=planned.weight_steps * 3)
    found, path = _projected(_quantised(tmp_path, planned))
    assert found == ["proj"] and _foreseen(tmp_path, planned)
    counts = _operators(path)
    assert (counts["QuantizeLinear"], counts["DequantizeLinear"], counts["ReduceMax"]) == (1, 2, 0)  # the other's
    np.testing.assert_allclose(_run(path), _expected(planned), rtol=1e-5, atol=1e-4)


def test_a_weight_that_stays_in_its_file_is_not_read(tmp_path: Path) -> None:
    planned = _planned()
    model = onnx.load(_quantised(tmp_path, planned))
    onnx.save(model, tmp_path / "far.onnx", save_as_external_data=True, location="far.data", size_threshold=1024)
    found, path = _projected(tmp_path / "far.onnx")
    assert found == ["proj"]
    np.testing.assert_allclose(_run(path), _expected(planned), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_only_engines_have_them_in_floats(form: FormName, tmp_path: Path) -> None:
    source = QuantizedModel(path=_quantised(tmp_path, _planned()))
    policy = PrecisionPolicy(narrow_products=FORMS[form].narrow_products)
    typed, report = assign_precision(source, tmp_path / "typed.onnx", "int8", policy)
    assert list(report.codes.in_floats) == (["proj"] if form == "engine" else [])
    assert _operators(typed.path)["QuantizeLinear"] == (1 if form == "engine" else 2)
    np.testing.assert_allclose(_run(typed.path), _expected(_planned()), atol=0.02 if form == "engine" else 0.4)


def test_rows_of_nan_stay_nan(tmp_path: Path) -> None:
    x = X.copy()
    x[1] = np.nan
    made = _run(_projected(_quantised(tmp_path, _planned()))[1], x)
    assert np.isnan(made[1]).all() and np.isfinite(made[0]).all()


@pytest.mark.parametrize(
    ("rows", "body", "wide"),
    [
        ("none", PROJECTED, ()),
        ("dynamic", PROJECTED.replace("MatMul(p, q)", "Add(q, q)"), ()),
        ("dynamic", PROJECTED.replace("p = Softmax<axis=-1>(s)", "p = Relu(s)"), ()),
        ("dynamic", PROJECTED.replace("r = Reshape(t, rows)", "f = Reshape(t, rows) r = Mul(f, f)"), ()),
        ("dynamic", PROJECTED, ("r",)),
        ("dynamic", PROJECTED, ("m",)),
    ],
    ids=["a constant range", "no attention", "no softmax", "more behind it", "wide", "a wide product"],
)
def test_others_keep_their_codes(rows: str, body: str, wide: tuple[str, ...], tmp_path: Path) -> None:
    """With a constant range attention writes the codes itself."""
    source = _quantised(tmp_path, _planned(rows), body)
    found, path = _projected(source, wide)
    assert found == [] and _operators(path) == _operators(source)
    assert _foreseen(tmp_path, _planned(rows)) == bool(wide)  # which nobody knows before ranges were audited


def test_a_weight_that_is_large_beside_its_rows_keeps_its_codes(tmp_path: Path) -> None:
    """It is half the bytes, and they are more than a launch."""
    outputs = LAUNCH // WIDTH + 2 * TOKENS
    for more, found in ((0, ["proj"]), (1, [])):
        planned = _planned(outputs=outputs + more)
        assert _projected(_quantised(tmp_path, planned, outputs=outputs + more))[0] == found
        assert _foreseen(tmp_path, planned) == bool(found)


def test_the_only_gemm_of_codes_keeps_them(tmp_path: Path) -> None:
    """What ships is to have the precision that was asked for."""
    source = _quantised(tmp_path, _planned(), plans=("proj",))
    assert _projected(source)[0] == []


def test_an_engine_has_a_kernel_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its GEMM reads what attention wrote."""
    pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")
    launches = []
    for least in (LAUNCH, -LAUNCH):  # floats, then codes whatever they cost
        monkeypatch.setattr(attention_outputs, "LAUNCH", least)
        source = QuantizedModel(path=_quantised(tmp_path, _planned()))
        policy = PrecisionPolicy(narrow_products=True)
        path = assign_precision(source, tmp_path / "typed.onnx", "int8", policy)[0].path
        facts = build_engine(path, target("rtx"), batch=BatchRange(2, 2, 2), inputs=specs(path)).facts
        assert facts["schedule"]["attention"] | {"because": {}} == {"fused": 1, "of": 1, "apart": [], "because": {}}
        launches.append(len(facts["schedule"]["launches"]))
    assert launches[0] == launches[1] - 1
