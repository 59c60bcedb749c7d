"""What the report says of calibration data: of walks their number, of files no path."""

from __future__ import annotations

from typing import Any

import pytest

from calibration.table import Table
from dsr_export.int8.data_facts import data_facts

WALK = {"pipeline": "FluxPipeline", "images": 4, "steps": 28, "prompts": ["a cat", "a dog"]}
TOLD = {**WALK, "prompts": 2}


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"kind": "trajectory", "images": 4, "steps": None}, {"kind": "trajectory", "images": 4, "steps": None}),
        ({"kind": "trajectory", **WALK}, {"kind": "trajectory", **TOLD}),
        ({"kind": "/home/someone/Prompts.TXT", **WALK}, {"kind": "prompts", **TOLD}),
        ({"kind": "/home/someone/rows.npz", "images": 4, "steps": None}, {"kind": "files"}),
        ({"kind": "random:3", "images": 4, "steps": 7}, {"kind": "random:3"}),
    ],
)
def test_each_kind_of_data_is_told(data: dict[str, Any], told: dict[str, Any]) -> None:
    assert data_facts(_table(data)) == [told]


def test_of_merged_tables_all_are_told() -> None:
    merged = {"merged": [{"kind": "random:0"}, {"kind": "trajectory", **WALK}]}
    assert data_facts(_table(merged)) == [{"kind": "random:0"}, {"kind": "trajectory", **TOLD}]


@pytest.mark.parametrize("data", [{}, {"merged": 3}, {"merged": []}, {"merged": ["x"]}])
def test_a_table_of_someone_elses_may_say_anything(data: dict[str, Any]) -> None:
    (told,) = data_facts(_table(data))
    assert told == {"kind": "files"} and _table(data).ranks == (None,)


def _table(data: dict[str, Any]) -> Table:
    return Table("0" * 64, "mse", data, {}, {})
