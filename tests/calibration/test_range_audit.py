"""The audit's verdicts, and the probes that feed it."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.range_audit import RangeAudit, RangeRecorder
from graphs.artifacts import OptimizedModel
from graphs.observe.probes import FAULTS, RANGES, ProbedTensor, add_fault_probes, add_range_probes
from graphs.observe.product_probes import add_product_probes, bound_probe


def _probed(folder: Path, *, quick: bool = False) -> tuple[list[ProbedTensor], onnxruntime.InferenceSession]:
    """x [batch, 8] -> 100 x -> its mean square and norm."""
    nodes = [
        helper.make_node("Mul", ["x", "hundred"], ["big"], name="a/Mul"),
        helper.make_node("Mul", ["big", "big"], ["square"], name="b/Mul"),
        helper.make_node("ReduceMean", ["square", "last"], ["mean"], name="b/ReduceMean"),
        helper.make_node("ReduceL2", ["big", "last"], ["out"], name="c/ReduceL2"),
    ]
    constants = {"hundred": np.float32(100), "last": np.array([-1])}
    initializers = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 1]) for n in ("out", "mean")]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / "m.onnx")
    tensors = add_range_probes(OptimizedModel(path=folder / "m.onnx"), folder / "probed.onnx", quick=quick)
    return tensors, onnxruntime.InferenceSession(str(folder / "probed.onnx"), providers=["CPUExecutionProvider"])


def test_probes_see_every_tensor_and_the_sums_inside_norms(tmp_path: Path) -> None:
    tensors, session = _probed(tmp_path)
    recorder = RangeRecorder(tensors)
    for scale in (0.5, 2.0, 1.0):
        x = np.full((3, 8), -scale, np.float32)
        recorder.observe(session.run([RANGES], {"x": x})[0])
    audit = recorder.audit()
    assert audit.runs == 3
    assert audit.maxima == pytest.approx({"big": 200, "square": 4e4, "mean": 4e4, "out": 200 * np.sqrt(8)})
    assert audit.sums == pytest.approx({"mean": 8 * 4e4, "out": 8 * 4e4})


def test_quick_probes_see_the_same_and_say_where_they_do_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sessions = {quick: _probed(tmp_path, quick=quick) for quick in (False, True)}
    assert sessions[True][0] == sessions[False][0]
    for x in (rng.standard_normal((3, 8)), -np.abs(rng.standard_normal((2, 8))), np.zeros((1, 8))):
        fed = {"x": x.astype(np.float32)}
        careful, quick = (sessions[kind][1].run([RANGES], fed)[0] for kind in (False, True))
        np.testing.assert_array_equal(quick, careful)
    for odd in (np.inf, -np.inf, np.nan, 3e36):  # the sum of the last ones is beyond FP32: they may not be finite
        fed = {"x": np.array([[odd] * 2 + [1] * 6], np.float32)}
        assert np.isnan(sessions[True][1].run([RANGES], fed)[0][0]), odd
        assert np.isfinite(sessions[False][1].run([RANGES], fed)[0]).all()


def test_only_what_comes_near_the_limit_of_fp16_is_wide(tmp_path: Path) -> None:
    tensors, session = _probed(tmp_path)
    recorder = RangeRecorder(tensors)
    recorder.observe(session.run([RANGES], {"x": np.full((1, 8), 2, np.float32)})[0])
    audit = recorder.audit()
    assert set(audit.wide_tensors("fp16")) == {"square", "mean"}
    assert audit.wide_tensors("fp16")["square"] == "|x| reaches 4e+04"
    assert audit.wide_tensors("bf16") == {}
    assert audit.as_dict()["kept_fp32"] == audit.wide_tensors("fp16")


def test_both_ends_of_the_range_are_known(tmp_path: Path) -> None:
    """x / d, where one value of d is tiny; 1e-7 x, which is tiny everywhere; and x - x, which is no reason."""
    nodes = [
        helper.make_node("Abs", ["x"], ["d"], name="a/Abs"),
        helper.make_node("Div", ["x", "d"], ["q"], name="a/Div"),
        helper.make_node("Mul", ["x", "small"], ["out"], name="b/Mul"),
        helper.make_node("Sub", ["x", "x"], ["zero"], name="b/Sub"),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 4]) for n in ("x", "q", "out", "zero")]
    small = numpy_helper.from_array(np.float32(1e-7), "small")
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [small])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "m.onnx")
    recorder = RangeRecorder(add_range_probes(OptimizedModel(path=tmp_path / "m.onnx"), tmp_path / "p.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "p.onnx"), providers=["CPUExecutionProvider"])
    for least in (1.0, 3e-6, 0.0, 0.5):
        recorder.observe(session.run([RANGES], {"x": np.array([[1, -2, 3, least]], np.float32)})[0])
    audit = recorder.audit()
    assert audit.least == pytest.approx({"d": 3e-6})
    assert audit.wide_tensors("fp16") == {"d": "divisor down to 3e-06", "out": "|x| stays below 3e-07"}
    assert audit.wide_tensors("bf16") == {}


def test_what_is_not_finite_inside_is_left_out_of_the_ranges(tmp_path: Path) -> None:
    """A mask of -inf is no fault, and NaN may be selected away; neither may hide the largest value beside it."""
    tensors, session = _probed(tmp_path)
    recorder = RangeRecorder(tensors)
    x = np.full((3, 8), 2, np.float32)
    x[0], x[1, 0] = np.nan, -np.inf
    recorder.observe(session.run([RANGES], {"x": x})[0])
    maxima = recorder.audit().maxima
    assert maxima["big"] == 200
    assert maxima["square"] == maxima["mean"] == 4e4


def test_fault_probes_tell_nan_from_infinity(tmp_path: Path) -> None:
    tensors, _ = _probed(tmp_path)
    names = add_fault_probes(OptimizedModel(path=tmp_path / "m.onnx"), tmp_path / "faults.onnx")
    assert names == [tensor.name for tensor in tensors]
    session = onnxruntime.InferenceSession(str(tmp_path / "faults.onnx"), providers=["CPUExecutionProvider"])
    for value, faults in ((1.0, [0, 0, 0, 0]), (1e30, [0, 1, 1, 1]), (np.nan, [2, 2, 2, 2])):
        x = np.ones((2, 8), np.float32)
        x[1, 3] = value
        assert dict(zip(names, session.run([FAULTS], {"x": x})[0], strict=True)) == dict(
            zip(("big", "square", "mean", "out"), faults, strict=True)
        )


def _gemm(folder: Path, weight: np.ndarray) -> OptimizedModel:
    """x [batch, 4] @ weight -> out: sums that cancel."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["out"], name="fc/MatMul")]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 4]) for n in ("x", "out")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / "g.onnx")
    return OptimizedModel(path=folder / "g.onnx")


def _audited(path: Path, probes: list[ProbedTensor], x: np.ndarray) -> RangeAudit:
    recorder = RangeRecorder(probes)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    recorder.observe(session.run([RANGES], {"x": x})[0])
    return recorder.audit()


def test_sums_that_cancel_are_seen_inside_a_gemm(tmp_path: Path) -> None:
    """The result is 0; a half accumulator would pass 20000 on its way there, within four times of its largest value."""
    weight = np.array([[100, 1], [-100, 1]] * 2, np.float32)[:, [0, 1, 1, 1]]
    model, x = _gemm(tmp_path, weight), np.full((1, 4), 50, np.float32)
    bound = _audited(tmp_path / "p.onnx", add_range_probes(model, tmp_path / "p.onnx", bound_probe), x)
    assert bound.maxima["out"] == 200
    assert bound.products["out"] == pytest.approx(100 * 200)  # a row of norm 100, a column of norm 200
    exact = _audited(tmp_path / "e.onnx", add_product_probes(model, tmp_path / "e.onnx", bound.long_sums()), x)
    assert exact.products == pytest.approx({"out": 4 * 50 * 100})
    assert bound.with_products(exact.products).wide_tensors("fp16") == {"out": "sums of |a|.|w| reach 2e+04"}


def test_a_loose_bound_alone_makes_nothing_wide(tmp_path: Path) -> None:
    """One large channel that the weights do not read: the bound passes the limit, what is summed does not."""
    weight = np.diag(np.array([1e-3, 10, 10, 10], np.float32))
    model, x = _gemm(tmp_path, weight), np.array([[1e4, 1, 1, 1]], np.float32)
    bound = _audited(tmp_path / "p.onnx", add_range_probes(model, tmp_path / "p.onnx", bound_probe), x)
    assert bound.long_sums() == ["out"]
    exact = _audited(tmp_path / "e.onnx", add_product_probes(model, tmp_path / "e.onnx", bound.long_sums()), x)
    assert exact.products["out"] == pytest.approx(10)
    assert bound.with_products(exact.products).wide_tensors("fp16") == {}


def test_probes_share_their_constants(tmp_path: Path) -> None:
    """Of 20 GEMMs as of 2: ONNX Runtime opens a model in time that is quadratic in its constants."""
    added = [_constants_added(tmp_path, gemms) for gemms in (2, 20)]
    assert added[0] == added[1] > 0


def _constants_added(folder: Path, gemms: int) -> int:
    """By the probes of a chain x @ w @ w ..., each of its own w."""
    names = ["x", *(f"t{i}" for i in range(1, gemms)), "out"]
    nodes = [helper.make_node("MatMul", [a, f"w{b}"], [b], b) for a, b in itertools.pairwise(names)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("x", "out")]
    weights = [numpy_helper.from_array(np.eye(2, dtype=np.float32), f"w{name}") for name in names[1:]]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / "m.onnx")
    add_range_probes(OptimizedModel(path=folder / "m.onnx"), folder / "p.onnx", bound_probe)
    return len(onnx.load(folder / "p.onnx").graph.initializer) - gemms
