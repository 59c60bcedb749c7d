"""A graph rounded otherwise: numbers go a step off, and nothing that no runtime rounds does."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser

from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from graphs.artifacts import TensorSpec
from graphs.observe.other_rounding import round_otherwise

Array = np.ndarray[Any, Any]
SPECS = (TensorSpec(name="x", dtype="float32", shape=("N", 8)),)
X = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)


def _both(body: str, x: Array = X) -> tuple[Array, Array]:
    """What the graph makes as it is, and rounded otherwise."""
    text = f'<ir_version: 10, opset_import: ["": 20]> g (float[N,8] x) => (float[N,8] out) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    made = []
    for each in (model, round_otherwise(model)):
        onnx.checker.check_model(each)
        with OnnxRuntimeRunner(each.SerializeToString(), inputs=SPECS, optimize=False) as runner:
            made.append(runner.infer({"x": x})["out"])
    return made[0], made[1]


def test_every_number_goes_a_step_or_two_off_and_all_one_way() -> None:
    truth, made = _both("out = Sigmoid(x)")
    steps = made.view(np.int32) - truth.view(np.int32)
    assert {abs(step) for step in steps.flat} <= {1, 2}
    assert len(set(np.sign(steps).flat)) == 1


def test_what_no_runtime_rounds_stays() -> None:
    mask = "zero = Constant<value_float = 0.0>() on = Less(x, zero) least = Constant<value_float = -3.4e38>()"
    for body in (f"{mask} out = Where(on, least, x)", "kept = Relu(x) out = Neg(kept)", "out = Floor(x)"):
        truth, made = _both(body)
        np.testing.assert_array_equal(truth, made)


def test_nan_and_infinities_stay() -> None:
    truth, made = _both("out = Log(x)", np.where(X > 1, 0, X))
    np.testing.assert_array_equal(np.isnan(truth), np.isnan(made))
    np.testing.assert_array_equal(np.isneginf(truth), np.isneginf(made))
    assert np.isnan(truth).any() and np.isneginf(truth).any()
