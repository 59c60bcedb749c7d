"""FP4 in standard operators: to the last bit what numpy and the casts of another library compute."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from calibration.activation_schemes import four_bit_rows
from graphs.errors import ExportError
from graphs.quantize.emulate_codes import emulate_codes
from graphs.quantize.formats import FP4, FP8
from graphs.quantize.four_bit import BLOCK
from graphs.stage_specs import DYNAMIC_FOUR_BIT, ENGINE_DOMAIN

E4M3, E2M1 = ml_dtypes.float8_e4m3fn, ml_dtypes.float4_e2m1fn
DYNAMIC = pytest.mark.parametrize("unit", [2.0**-14, 2.0**-9, 1.0, 2.0**15])


def _values(x: np.ndarray, unit: float) -> np.ndarray:
    """What the codes of `x` stand for, written out: a scale of E4M3 for each 16, then numbers of E2M1."""
    blocks = x.astype(np.float32).reshape(*x.shape[:-1], -1, BLOCK)
    scale = np.abs(blocks).max(axis=-1, keepdims=True) / np.float32(6) / np.float32(unit)
    step = np.minimum(scale, np.float32(448)).astype(E4M3).astype(np.float32) * np.float32(unit)
    even = np.divide(blocks, step, out=blocks.copy(), where=step != 0)
    numbers = np.clip(even, -6, 6).astype(E2M1).astype(np.float32)
    return np.asarray((numbers * step).reshape(x.shape), np.float32)


def _model(shape: list[int | str], unit: float, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """x -> what its codes stand for."""
    nodes = [
        helper.make_node(
            DYNAMIC_FOUR_BIT, ["x", "unit"], ["codes", "scales"], "q", ENGINE_DOMAIN, axis=-1, block_size=BLOCK
        ),
        helper.make_node("DequantizeLinear", ["scales", "unit_too"], ["steps"], "s"),
        helper.make_node("DequantizeLinear", ["codes", "steps"], ["y"], "d", axis=-1, block_size=BLOCK),
        helper.make_node("Identity", ["y"], ["out"], "i"),
    ]
    numpy_kind = helper.tensor_dtype_to_np_dtype(kind)
    constants = [
        numpy_helper.from_array(np.array(unit, np.float32), "unit"),
        numpy_helper.from_array(np.array(unit, numpy_kind), "unit_too"),
    ]
    values = [helper.make_tensor_value_info(name, kind, shape) for name in ("x", "out", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:2], constants, value_info=values[2:])
    imports = [helper.make_opsetid("", 23), helper.make_opsetid(ENGINE_DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=11)


def _run(model: onnx.ModelProto, **inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, inputs)[0])


def _emulated(x: np.ndarray, unit: float, shape: list[int | str] | None = None) -> np.ndarray:
    return _run(emulate_codes(_model(shape or list(x.shape), unit), None), x=x)


def _assert_bits(found: np.ndarray, wanted: np.ndarray) -> None:
    """Zeros of either sign are one number."""
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("factor", [16.0, 0.25])
def test_each_dequantiser_is_read_as_it_stands(factor: float, rng: np.random.Generator) -> None:
    """Also where it is wrong: a witness that knew better would see no fault."""
    x, model = rng.standard_normal((3, 32)).astype(np.float32), _model([3, 32], 2.0**-9)
    unit = next(each for each in model.graph.initializer if each.name == "unit_too")
    unit.CopyFrom(numpy_helper.from_array(np.array(2.0**-9 * factor, np.float32), "unit_too"))
    _assert_bits(_run(emulate_codes(model, None), x=x), _values(x, 2.0**-9) * np.float32(factor))


@pytest.mark.parametrize(("name", "value"), [("block_size", 32), ("axis", 0), ("scale_type", 1)])
def test_a_quantiser_of_another_kind_is_refused(name: str, value: int) -> None:
    model = _model([3, 32], 1.0)
    kept = [each for each in model.graph.node[0].attribute if each.name != name]
    del model.graph.node[0].attribute[:]
    model.graph.node[0].attribute.extend([*kept, helper.make_attribute(name, value)])
    with pytest.raises(ExportError, match=f"q has {name} {value}, which is not NVFP4"):
        emulate_codes(model, None)


@DYNAMIC
@pytest.mark.parametrize("shape", [(3, 32), (2, 5, 48), (2, 3, 4, 16)], ids=str)
def test_every_rank_has_the_bits_of_numpy(shape: tuple[int, ...], unit: float, rng: np.random.Generator) -> None:
    x = (rng.standard_normal(shape) * 10.0 ** rng.uniform(-6, 6, (*shape[:-1], 1))).astype(np.float32)
    _assert_bits(_emulated(x, unit), _values(x, unit))
    named: list[int | str] = ["batch", *shape[1:]]
    _assert_bits(_emulated(x, unit, named), _values(x, unit))
    _assert_bits(four_bit_rows(x.reshape(-1, shape[-1]), unit).reshape(shape), _values(x, unit))


@settings(max_examples=60)
@given(
    rows=st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=16, max_size=16), min_size=1, max_size=4),
    unit=st.sampled_from([2.0**-14, 2.0**-7, 1.0]),
)
def test_rows_in_numpy_have_the_same_bits(rows: list[list[float]], unit: float) -> None:
    x = np.array(rows, np.float32)
    _assert_bits(four_bit_rows(x, unit), _values(x, unit))


def test_ties_go_to_the_even_code() -> None:
    """6 makes the scale one, so that what is rounded is the number itself."""
    ties = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], np.float32)
    x = np.zeros((2, BLOCK), np.float32)
    x[:, 0], x[0, 1:8], x[1, 1:8] = 6, ties, -ties
    wanted = np.array([0, 1, 1, 2, 2, 4, 4], np.float32)
    for made in (_emulated(x, 1.0), four_bit_rows(x, 1.0)):
        np.testing.assert_array_equal(made[:, 1:8], [wanted, -wanted])
    _assert_bits(_emulated(x, 1.0), _values(x, 1.0))


@pytest.mark.parametrize(
    ("largest", "step"),
    [
        (6 * 448 * 3, 448.0),  # beyond: the largest scale, and the number 6
        (np.inf, 448.0),
        (6 * 2.0**-9, 2.0**-9),  # the smallest scale there is
        (6 * 3.5 * 2.0**-9, 4 * 2.0**-9),  # between two that are subnormal
        (6 * 2.0**-10, 0.0),  # halfway to none
        (6 * 0.75 * 2.0**-9, 2.0**-9),
        (0.0, 0.0),
    ],
)
def test_scales_end_where_their_format_does(largest: float, step: float) -> None:
    x = np.zeros((1, BLOCK), np.float32)
    x[0, :2] = largest, largest / 2
    held = np.clip(np.array([largest, largest / 2]) / (step or 1), -6, 6).astype(E2M1).astype(np.float32) * step
    for made in (_emulated(x, 1.0), four_bit_rows(x, 1.0)):
        assert np.isfinite(made).all()
        np.testing.assert_array_equal(made[0, :2], held)
        assert not made[0, 2:].any()


def test_a_block_of_zeros_is_zeros_beside_others(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 3 * BLOCK)).astype(np.float32)
    x[:, BLOCK : 2 * BLOCK] = 0
    made = _emulated(x, 2.0**-9)
    assert not made[:, BLOCK : 2 * BLOCK].any()
    _assert_bits(made, _values(x, 2.0**-9))


def test_half_tensors_get_the_same_numbers_in_half(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 5, 32)).astype(np.float16)
    made = _run(emulate_codes(_model(list(x.shape), 2.0**-9, TensorProto.FLOAT16), None), x=x)
    _assert_bits(made, _values(x, 2.0**-9).astype(np.float16))


def _weight_model(codes: np.ndarray, scales: np.ndarray, unit: float) -> onnx.ModelProto:
    """What the codes [K, N] stand for, times x."""
    nodes = [
        helper.make_node("DequantizeLinear", ["scales", "unit"], ["steps"], "s"),
        helper.make_node("DequantizeLinear", ["codes", "steps"], ["w"], "d", axis=0, block_size=BLOCK),
        helper.make_node("MatMul", ["x", "w"], ["out"], "m"),
    ]
    constants = {"codes": codes, "scales": scales, "unit": np.array(unit, np.float32)}
    shapes = {"x": ["N", len(codes)], "out": ["N", codes.shape[1]], "w": list(codes.shape), "steps": list(scales.shape)}
    values = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in shapes.items()}
    graph = helper.make_graph(
        nodes,
        "g",
        [values["x"]],
        [values["out"]],
        [numpy_helper.from_array(each, name) for name, each in constants.items()],
        value_info=[values["w"], values["steps"]],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)


@pytest.mark.parametrize("external", [False, True], ids=["inline", "in a file"])
@pytest.mark.parametrize("outputs", [3, 8])
def test_weights_are_their_codes_times_their_scales(
    outputs: int, external: bool, tmp_path: Path, rng: np.random.Generator
) -> None:
    codes = FP4.codes(FP4.nearest(rng.uniform(-7, 7, (2 * BLOCK, outputs))))
    scales = FP8.codes(FP8.nearest(rng.uniform(0, 448, (2, outputs))))
    model = _weight_model(codes, scales, 2.0**-12)
    if external:
        onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=20)
        model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
        assert any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer)
    emulated = emulate_codes(model, tmp_path)
    assert not {TensorProto.FLOAT4E2M1} & {tensor.data_type for tensor in emulated.graph.initializer}
    for tensor in emulated.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(tmp_path))
            tensor.data_location = TensorProto.DEFAULT
    weight = codes.astype(np.float32) * np.repeat(scales.astype(np.float32) * np.float32(2.0**-12), BLOCK, axis=0)
    _assert_bits(_run(emulated, x=np.eye(2 * BLOCK, dtype=np.float32)), weight)


def test_all_sixteen_codes_and_every_scale_are_exact() -> None:
    every = np.arange(256, dtype=np.uint8).view(E4M3)
    scales = every[np.isfinite(every.astype(np.float32)) & (every.astype(np.float32) > 0)][None]
    codes = np.repeat(np.arange(16, dtype=np.uint8).view(E2M1)[:, None], scales.shape[1], axis=1)
    made = _run(emulate_codes(_weight_model(codes, scales, 2.0**-14), None), x=np.eye(BLOCK, dtype=np.float32))
    _assert_bits(made, codes.astype(np.float32) * scales.astype(np.float32) * np.float32(2.0**-14))


def test_a_graph_without_fp4_is_itself() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }'
    )
    assert emulate_codes(model, None) is model


@pytest.mark.parametrize("read", ["codes", "scales"])
def test_codes_that_something_else_reads_are_refused(read: str) -> None:
    model = _model([2, 16], 1.0)
    model.graph.node.append(helper.make_node("Shape", [read], ["size"], "odd"))
    with pytest.raises(ExportError, match="odd reads FP4 and dequantises nothing"):
        emulate_codes(model, None)


def test_weights_that_something_else_reads_are_refused(rng: np.random.Generator) -> None:
    model = _weight_model(FP4.codes(np.ones((16, 2))), FP8.codes(np.ones((1, 2))), 1.0)
    model.graph.node.append(helper.make_node("Identity", ["codes"], ["other"], "odd"))
    with pytest.raises(ExportError, match="odd reads FP4"):
        emulate_codes(model, None)


def test_the_model_that_is_given_stays_as_it_is() -> None:
    model = _model([2, 16], 1.0)
    before = model.SerializeToString(deterministic=True)
    emulate_codes(model, None)
    assert model.SerializeToString(deterministic=True) == before
