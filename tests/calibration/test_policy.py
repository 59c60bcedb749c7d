"""Which GEMMs become INT8: inner ones, wide enough, of many rows, in no module that must stay in FP32."""

from __future__ import annotations

from pathlib import Path

import pytest

from calibration.policy import Selection, select
from tests.calibration.small_graph import TOKENS, WIDTH, small_graph


def _names(found: Selection) -> tuple[list[str], list[str]]:
    return [gemm.name for gemm in found.integer], [gemm.name for gemm in found.conditions]


def test_inner_gemms_become_int8_and_those_of_conditions_are_apart(tmp_path: Path) -> None:
    """Left out: the embedder and the head, both that are narrower than 16."""
    found = select(small_graph(tmp_path), ())
    assert _names(found) == (["attn.q", "attn.k"], ["time.first", "time.second"])
    assert [gemm.name for gemm in found.all] == ["attn.q", "attn.k", "time.first", "time.second"]


def test_all_weight_gemms_of_one_sample_count_into_the_flops(tmp_path: Path) -> None:
    rows = TOKENS * (4 * WIDTH * WIDTH + 2 * 8 * WIDTH) + 2 * WIDTH * WIDTH
    assert select(small_graph(tmp_path), ()).total_flops == 2 * rows


@pytest.mark.parametrize(
    ("kept", "integer"),
    [("attn", []), ("attn.q", ["attn.k"]), ("att", ["attn.q", "attn.k"]), ("attn.q.x", ["attn.q", "attn.k"])],
)
def test_a_module_that_stays_in_fp32_keeps_its_gemms(kept: str, integer: list[str], tmp_path: Path) -> None:
    """By whole path elements: `att` is no part of `attn`."""
    assert _names(select(small_graph(tmp_path), (kept,)))[0] == integer
