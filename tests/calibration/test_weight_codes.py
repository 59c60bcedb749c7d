"""One GEMM's weight in codes of each format: codes and branch stand for the weight nearly, and on average exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from calibration.activation_schemes import Choice
from calibration.methods import METHODS
from calibration.stats import ActivationStats
from calibration.token_roles import RegisterRows
from calibration.weight_codes import quantised_gemm, stored_weight
from calibration.weight_steps import by_input
from graphs.files import load_inferred_graph
from graphs.quantize.formats import format_of
from graphs.quantize.quantizers import Activation, QuantizedGemm
from graphs.quantize.schemes import (
    EIGHT_BIT_FLOAT,
    FOUR_BIT_FLOAT,
    FOUR_BIT_FLOAT_WEIGHT,
    FOUR_BIT_WEIGHT,
    INTEGER,
    GemmFormat,
)
from graphs.weights.gemms import WeightGemm, weight_gemms

INPUTS, OUTPUTS, TOKENS = 64, 40, 6
RECIPE = METHODS["outlier-aware"]
FORMATS = pytest.mark.parametrize(
    ("form", "error"),
    [
        (INTEGER, 0.03),
        (EIGHT_BIT_FLOAT, 0.06),
        (FOUR_BIT_WEIGHT, 0.2),
        (FOUR_BIT_FLOAT_WEIGHT, 0.2),
        (FOUR_BIT_FLOAT, 0.15),
    ],
    ids=lambda each: each.name if isinstance(each, GemmFormat) else "",
)


@pytest.fixture(params=[False, True], ids=["MatMul", "transposed"])
def gemm(request: pytest.FixtureRequest, tmp_path: Path, rng: np.random.Generator) -> WeightGemm:
    weight = rng.standard_normal((INPUTS, OUTPUTS)).astype(np.float32)
    weight[3] *= 30  # as smoothing leaves it
    turned = bool(request.param)
    x, out = gs.Variable("x", np.float32, ("N", INPUTS)), gs.Variable("out", np.float32, ("N", OUTPUTS))
    constant = gs.Constant("w", np.ascontiguousarray(weight.T) if turned else weight)
    attrs = {"transB": 1} if turned else {}
    node = gs.Node("Gemm" if turned else "MatMul", "fc/Gemm", attrs, [x, constant], [out])
    onnx.save(gs.export_onnx(gs.Graph([node], [x], [out], opset=20), ir_version=10), tmp_path / "m.onnx")
    (found,) = weight_gemms(load_inferred_graph(tmp_path / "m.onnx"))
    return found


def _plan(gemm: WeightGemm, form: GemmFormat, stats: ActivationStats | None = None) -> QuantizedGemm:
    factors = np.ones(INPUTS, np.float32)
    choice = Choice(activation=Activation(step=1.0, format=form.activations), factors=factors, snr_db=0.0)
    return quantised_gemm(gemm, stats, RECIPE, choice, form)


def _stands_for(plan: QuantizedGemm) -> np.ndarray:
    codes = np.asarray(plan.codes).astype(np.float32)
    weight = codes * by_input(plan.weight_steps, len(codes))
    return np.asarray(weight if plan.branch is None else weight + plan.branch[0] @ plan.branch[1])


@pytest.fixture
def stats(rng: np.random.Generator) -> ActivationStats:
    """Of correlated tokens whose mean is far from 0; input 7 is never seen."""
    stats = ActivationStats("x", INPUTS, TOKENS, RegisterRows(count=0, patches=TOKENS))
    x = rng.standard_normal((400, TOKENS, 16)) @ rng.standard_normal((16, INPUTS)) + 2
    x[..., 7] = 0
    stats.observe(x.astype(np.float32), np.arange(400), np.zeros(400, np.int64), np.ones(400))
    assert stats.representative
    return stats


@FORMATS
def test_codes_and_branch_stand_for_the_weight(gemm: WeightGemm, form: GemmFormat, error: float) -> None:
    weight, plan = stored_weight(gemm), _plan(gemm, form)
    assert format_of(plan.codes) == form.weights and plan.codes.shape == (INPUTS, OUTPUTS)
    assert np.linalg.norm(_stands_for(plan) - weight) <= error * np.linalg.norm(weight)
    assert (plan.branch is not None) == (form.rank > 0)
    assert plan.weight_steps.shape == ((OUTPUTS,) if form.block is None else (INPUTS // form.block, OUTPUTS))
    if form.scales is not None:
        numbers = form.scales.codes(plan.weight_steps / plan.unit).astype(np.float32)
        np.testing.assert_array_equal(numbers * np.float32(plan.unit), plan.weight_steps)


def test_a_branch_takes_the_large_rows_off_the_codes(gemm: WeightGemm) -> None:
    weight = stored_weight(gemm)
    errors = [
        np.abs(_stands_for(_plan(gemm, form)) - weight).mean() for form in (FOUR_BIT_FLOAT_WEIGHT, FOUR_BIT_FLOAT)
    ]
    assert errors[1] < errors[0] * 0.8


@FORMATS
def test_what_inputs_are_like_makes_the_output_closer_and_its_mean_exact(
    gemm: WeightGemm, form: GemmFormat, error: float, stats: ActivationStats
) -> None:
    weight, plans = stored_weight(gemm), [_plan(gemm, form, each) for each in (None, stats)]
    lost = [_stands_for(plan) - weight for plan in plans]
    energy = [float((each * (stats.hessian @ each)).sum()) for each in lost]
    assert energy[1] < energy[0]
    assert plans[0].bias_shift is None and plans[1].bias_shift is not None
    np.testing.assert_allclose(
        stats.mean @ lost[1] + plans[1].bias_shift, 0, atol=1e-3 * np.abs(stats.mean @ weight).max()
    )
    assert np.isfinite(_stands_for(plans[1])).all()


def test_a_condition_has_codes_without_a_choice(gemm: WeightGemm) -> None:
    plan, weight = quantised_gemm(gemm, None, RECIPE, None, INTEGER), stored_weight(gemm)
    assert plan.activation is None and plan.branch is None
    assert np.abs(_stands_for(plan) - weight).max() <= 0.02 * np.abs(weight).max()
