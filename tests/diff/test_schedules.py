"""What is said of two engines' schedules."""

from __future__ import annotations

from typing import Any

from dsr_export.diff.schedules import schedule_changes

A: dict[str, Any] = {
    "batch": 2,
    "launches": 144,
    "moved_bytes": 301_000_000,
    "attentions": 12,
    "attentions_fused": 12,
    "weight_gemms": {"float16": 60, "float32": 4},
    "kinds": {},
}


def test_more_launches_bytes_and_a_lost_fusion_are_said() -> None:
    b = {**A, "launches": 240, "moved_bytes": 345_000_000, "attentions_fused": 11, "weight_gemms": {"int8": 64}}
    assert list(schedule_changes(A, b)) == [
        "launches 144 -> 240: B launches 67% more",
        "moves 301 MB -> 345 MB: B moves 15% more",
        "attentions fused 12 of 12 -> 11 of 12: B lost a fusion",
        "weight GEMMs compute in float16 60, float32 4 -> int8 64",
    ]
    back = list(schedule_changes(b, A))
    assert back[0].endswith("B launches 40% less") and back[2].endswith("B gained a fusion")


def test_equal_schedules_say_so_by_their_figures_alone() -> None:
    assert list(schedule_changes(A, A)) == [
        "launches 144 -> 144",
        "moves 301 MB -> 301 MB",
        "attentions fused 12 of 12 -> 12 of 12",
    ]


def test_other_batches_are_not_compared() -> None:
    assert list(schedule_changes(A, {**A, "batch": 8})) == ["schedules of different batches: 2 and 8"]


def test_figures_that_are_not_known_are_dashes() -> None:
    for key in ("attentions", "attentions_fused"):
        unknown = {**A, "launches": None, "moved_bytes": None, key: None}
        assert "launches 144 -> \N{EN DASH}" in list(schedule_changes(A, unknown))
