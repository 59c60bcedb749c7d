"""What is said of each GEMM: figures of the format that it has, whatever formats its inputs allow."""

from __future__ import annotations

from typing import Any

import pytest

from dsr_export.int8.quantize import _of_format
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


def test_conditions_have_none() -> None:
    assert _of_format({}, "int8", SCHEMES["nvfp4"]) == {}
