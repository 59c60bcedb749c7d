"""What is said of each GEMM: figures of the format that it has, whatever formats its inputs allow."""

from __future__ import annotations

import re
from typing import Any

import pytest

from calibration.table import Table
from dsr_export.int8.ladders import Verdict
from dsr_export.int8.quantize import _facts, _of_format
from graphs.precisions import Precision, quantized_precisions
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


def test_conditions_have_none() -> None:
    assert _of_format({}, "int8", SCHEMES["nvfp4"]) == {}
