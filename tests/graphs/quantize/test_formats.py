"""Formats of codes against the casts of another library, and against QuantizeLinear of ONNX Runtime."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx.parser
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from onnx import numpy_helper

from graphs.quantize.formats import FORMATS, FP4, FP8, INT4, INT8, CodeFormat, format_of

NUMBERS = {
    "int8": np.arange(-128, 128, dtype=np.float32),
    "int4": np.arange(-8, 8, dtype=np.float32),
    "fp8": np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32),
    "fp4": np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32),
}
"""Of every code there is."""
FLOATS = nps.arrays(np.float32, st.integers(1, 40), elements=st.floats(-600, 600, width=32))
ALL = pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.name)


def _codes(form: CodeFormat) -> np.ndarray:
    """Sorted, each once, without NaN."""
    return np.unique(NUMBERS[form.name][np.isfinite(NUMBERS[form.name])])


def _cast(form: CodeFormat, values: np.ndarray) -> np.ndarray:
    """By ml_dtypes, which makes NaN of what lies beyond FP8, and wraps integers."""
    held = np.clip(values, form.lowest, form.largest)
    return (held if form.is_float else np.rint(held)).astype(form.dtype).astype(np.float32)


@ALL
def test_every_number_is_its_own_nearest(form: CodeFormat) -> None:
    codes = _codes(form)
    assert (codes.max(), codes.min()) == (form.largest, form.lowest)
    twice = 3 if form is FP8 else 1 if form.is_float else 0  # zero of both signs, and NaN
    assert len(codes) == len(NUMBERS[form.name]) - twice
    np.testing.assert_array_equal(form.nearest(codes, symmetric=False), codes)
    np.testing.assert_array_equal(form.codes(codes).astype(np.float32), codes)


@ALL
def test_halfway_goes_to_the_even_code_and_its_neighbours_to_theirs(form: CodeFormat) -> None:
    """Subnormal numbers are among them."""
    codes = _codes(form)
    middles = ((codes[1:].astype(np.float64) + codes[:-1]) / 2).astype(np.float32)
    np.testing.assert_array_equal(form.nearest(middles, symmetric=False), _cast(form, middles))
    below, above = (np.nextafter(middles, np.float32(way)) for way in (-np.inf, np.inf))
    np.testing.assert_array_equal(form.nearest(below, symmetric=False), codes[:-1])
    np.testing.assert_array_equal(form.nearest(above, symmetric=False), codes[1:])


@ALL
@given(values=FLOATS)
def test_any_values_become_what_a_cast_makes_of_them(form: CodeFormat, values: np.ndarray) -> None:
    for scale in (1.0, 2.0**-8, 2.0**-140):
        scaled = (values * np.float32(scale)).astype(np.float32)
        np.testing.assert_array_equal(form.nearest(scaled, symmetric=False), _cast(form, scaled))


@ALL
def test_what_lies_beyond_becomes_the_largest_and_nan_stays(form: CodeFormat) -> None:
    far = np.array([np.inf, 3e38, form.largest * 1.01, -np.inf, -3e38, np.nan], np.float32)
    top = form.largest
    np.testing.assert_array_equal(form.nearest(far, symmetric=True), [top, top, top, -top, -top, np.nan])
    np.testing.assert_array_equal(form.nearest(far, symmetric=False)[3:5], [form.lowest] * 2)


def test_weights_are_symmetric_but_for_those_of_four_bits() -> None:
    assert INT8.nearest(np.float32([-200, -128])).tolist() == [-127, -127]
    assert INT4.nearest(np.float32([-200, -8])).tolist() == [-8, -8]
    assert FP8.lowest == -FP8.largest and FP4.lowest == -FP4.largest


@ALL
def test_an_array_of_codes_tells_its_format(form: CodeFormat) -> None:
    codes = form.codes(np.zeros((2, 3)))
    assert format_of(codes) is form and codes.itemsize == 1
    with pytest.raises(KeyError):
        format_of(np.zeros(3, np.float16))


@pytest.mark.parametrize("form", [INT8, FP8], ids=lambda form: form.name)
def test_quantize_linear_makes_the_same_codes(form: CodeFormat) -> None:
    codes = _codes(form)
    middles = (codes[1:] + codes[:-1]) / 2
    near = [np.nextafter(middles, np.float32(way)) for way in (-np.inf, np.inf)]
    drawn = np.random.default_rng(0).standard_normal(4000).astype(np.float32) * form.largest
    x = np.concatenate([codes, middles, *near, drawn, np.float32([1e30, -1e30, 1e-30])])
    for step in (1.0, 0.037):
        made = _quantize_linear(x, np.float32(step), form)
        np.testing.assert_array_equal(made, form.nearest(x / np.float32(step), symmetric=False))


def _quantize_linear(x: np.ndarray, step: np.float32, form: CodeFormat) -> np.ndarray:
    """What its codes stand for, at a step of 1."""
    body = "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, one, z)"
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> g (float[n] x) => (float[n] y) {{{body}}}'
    )
    constants = {"s": np.array(step), "one": np.array(np.float32(1)), "z": form.codes(np.zeros(()))}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x.astype(np.float32)})[0])
