"""How much of a model is narrow: none is refused before an engine is built, little is said, and neither is exit 3."""

from __future__ import annotations

from typing import Any

import pytest

from dsr_export.errors import ExportError
from dsr_export.parity.narrowing import least_narrow, require_narrowed


def _typing(fraction: float) -> dict[str, Any]:
    reasons = {"sensitive module 't_embedder'": 4, "norm": 9}
    return {"half_weight_fraction": fraction, "fp32_reasons": reasons, "fp32_nodes": 13}


@pytest.mark.parametrize(("precision", "fraction"), [("fp32", 0.0), ("fp16", 0.5), ("bf16", 1.0), ("int8", 0.9)])
def test_nothing_is_said_of_most(precision: Any, fraction: float) -> None:
    assert require_narrowed(precision, _typing(fraction)) is None
    assert fraction >= least_narrow(precision)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_little_is_said_with_its_reasons_and_passes(precision: Any) -> None:
    said = require_narrowed(precision, _typing(0.31))
    assert said is not None and said.startswith(f"31% of the weight bytes are {precision.upper()}")
    assert "norm (9), sensitive module 't_embedder' (4)" in said
    assert least_narrow(precision) <= 0.31


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_nothing_is_not_what_was_asked_for(precision: Any) -> None:
    with pytest.raises(ExportError, match=f"{precision} was asked for, and 0% of the weight bytes") as caught:
        require_narrowed(precision, _typing(0.0))
    assert "build with" in str(caught.value.hint)
    assert least_narrow(precision) > 0.0


INTEGER, HELD_BACK = {"name": "q", "precision": "int8"}, {"name": "k", "precision": "fp16"}


def test_a_budget_is_named_only_where_it_kept_a_gemm_back() -> None:
    with pytest.raises(ExportError, match="0.24% of the weight bytes are INT8; .*all 2 GEMMs inside") as caught:
        require_narrowed("int8", _typing(0.0024), [INTEGER, INTEGER])
    assert caught.value.hint == "build with --precision fp16"
    with pytest.raises(ExportError, match="norm") as caught:
        require_narrowed("int8", _typing(0.0024), [INTEGER, HELD_BACK])
    assert "lower --budget" in str(caught.value.hint)


def test_every_format_that_gemms_have_is_named() -> None:
    said = require_narrowed("fp8", _typing(0.31), [{"name": "q", "precision": "fp8"}, INTEGER])
    assert said is not None and "all 2 GEMMs inside that can become FP8 or INT8 did" in said


def test_what_holds_the_rest_is_where_int8_does_not_reach() -> None:
    said = require_narrowed("int8", _typing(0.31), [INTEGER])
    assert said is not None and "embedders, final layers" in said and "the one GEMM" in said


def test_finer_codes_are_not_what_was_asked_for() -> None:
    """All weights are narrow, and no GEMM has the format."""
    finer = [{"name": "q", "precision": "fp8"}, {"name": "k", "precision": "fp8"}, INTEGER]
    said = require_narrowed("nvfp4", _typing(0.9), finer)
    assert said == (
        "the error budget leaves no GEMM in NVFP4: FP8 (2), INT8 (1); lower --budget, or build with --precision fp8"
    )
    assert require_narrowed("nvfp4", _typing(0.9), [*finer, {"name": "v", "precision": "nvfp4"}]) is None


def test_both_are_said_where_little_is_narrow_and_none_of_it_as_asked() -> None:
    said = require_narrowed("int4", _typing(0.31), [HELD_BACK, INTEGER])
    assert said is not None and said.startswith("31% of the weight bytes are INT4; what stays wider")
    assert "; the error budget leaves no GEMM in INT4: FP16 (1), INT8 (1)" in said
