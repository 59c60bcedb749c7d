"""What is said of each GEMM: figures of the format that it has, whatever formats its inputs allow."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from calibration.table import Table
from dsr_export.int8.ladders import Verdict
from dsr_export.int8.quantize import _facts, _ladders, _of_format, _Shape
from graphs.precisions import Precision, quantized_precisions
from graphs.quantize.quantizers import Activation, QuantizedGemm
from graphs.quantize.schemes import SCHEMES


def _entry(*formats: str, width: int) -> dict[str, Any]:
    first, *finer = ({"rows": name} for name in formats)
    return {**first, "width": width, **({"finer": finer} if finer else {})}


@pytest.mark.parametrize("form", ["nvfp4", "fp8", "int8"])
def test_each_format_has_its_own_figures(form: str) -> None:
    entry = _entry("nvfp4", "fp8", "int8", width=48)
    assert _of_format(entry, form, SCHEMES["nvfp4"])["rows"] == form


@pytest.mark.parametrize("form", ["fp8", "int8"])
def test_formats_whose_blocks_do_not_divide_the_inputs_are_left_out(form: str) -> None:
    assert _of_format(_entry("fp8", "int8", width=40), form, SCHEMES["nvfp4"])["rows"] == form


def test_a_gemm_in_floats_has_those_of_the_first() -> None:
    assert _of_format(_entry("fp8", "int8", width=40), None, SCHEMES["nvfp4"])["rows"] == "fp8"
    assert _of_format(_entry("int8", width=40), "int8", SCHEMES["int4"])["rows"] == "int8"


@pytest.mark.parametrize("precision", quantized_precisions())
def test_every_key_is_a_plain_word(precision: Precision) -> None:
    table = Table("0", "mse", {}, {}, {"g": {"activation": "h", "condition": True, "flops_share": 0.5}})
    verdict = Verdict({}, (), 30.0, {})
    told = _facts(["g"], table, precision, 20.0, verdict, {"g": precision}, measured=True)
    assert told[f"{precision.replace('-', '_')}_flops_share"] == 0.5
    assert all(re.fullmatch("[a-z0-9_]+", key) for key in (*told, *told["gemms"][0]))


def test_a_format_that_an_engine_would_not_have_is_no_rung() -> None:
    """A projection in INT8 would be FP16 there, and twice the bytes of what the ladder says."""
    one = np.ones(1, np.float32)
    plans = {
        "proj": {
            form: QuantizedGemm(codes=one, weight_steps=one, activation=Activation(step=1.0))
            for form in ("int4", "int8")
        }
    }
    nothing = {"row_factors": None, "channel_factors": None}
    entry = {
        "format": "floats",
        "width": 64,
        "step": 1.0,
        "rows": "none",
        "snr_db": 20.0,
        "finer": [{"format": "int8", "width": 64, "step": 0.1, "rows": "dynamic", "snr_db": 40.0, **nothing}],
        **nothing,
    }
    table = Table("0", "mse", {}, {"h": entry}, {"proj": {"activation": "h"}})
    shapes = {"proj": _Shape(reads="h", tokens=16, inputs=64, outputs=64)}
    whole, without = (_ladders(plans, table, shapes, floats)["proj"] for floats in ({}, {"proj": {"int8"}}))
    assert (whole.formats, whole.passes) == (("int4", "int8"), (False, True))
    assert (without.formats, without.local_db) == (("int4",), (20.0,))
    assert (without.bytes[0], without.bytes[-1]) == (whole.bytes[0], whole.bytes[-1])


def test_conditions_have_none() -> None:
    assert _of_format({}, "int8", SCHEMES["nvfp4"]) == {}
