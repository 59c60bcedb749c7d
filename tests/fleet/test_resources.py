"""What cells ask of their machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsr_export.cluster.request import Resources
from dsr_export.errors import ExportError
from dsr_export.fleet.matrix import read_matrix

HEAD = '[matrix]\nmodel = "digits"\nprecision = ["fp16", "int8"]\n'


def _needs(folder: Path, text: str) -> list[Resources]:
    (folder / "fleet.toml").write_text(HEAD + text)
    return [cell.needs for cell in read_matrix(folder / "fleet.toml")]


def test_a_cell_asks_for_one_cpu_if_for_nothing(tmp_path: Path) -> None:
    assert _needs(tmp_path, "") == [Resources(), Resources()]


def test_tables_are_for_the_cells_that_they_name_and_later_ones_win(tmp_path: Path) -> None:
    text = '[[resources]]\ncpus = 2\nmemory = "1.5GB"\n[[resources]]\nwhen = { precision = "int8" }\n'
    text += 'cpus = 8\ngpus = 0.5\naccelerator = "L4"\ncustom = { jetson = 1 }\n'
    half, integer = _needs(tmp_path, text)
    assert half == Resources(cpus=2, memory=1_500_000_000)
    assert integer == Resources(cpus=8, gpus=0.5, memory=1_500_000_000, accelerator="L4", custom={"jetson": 1})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("resources = 3", "no list of tables"),
        ("[[resources]]\nram = 3", "has no 'ram'"),
        ('[[resources]]\nmemory = "much"', "'memory' is no size"),
        ("[[resources]]\nmemory = 32", "'memory' is no size"),
        ("[[resources]]\ngpus = -1", "no number from 0"),
        ("[[resources]]\ncpus = 1.5", "'cpus' is 1.5"),
        ("[[resources]]\ncpus = true", "no number from 0"),
        ("[[resources]]\naccelerator = 4", "'accelerator' is no name"),
        ("[[resources]]\ncustom = 4", "'custom' is no table"),
        ("[[resources]]\ncustom = { CPU = 1 }", "'CPU' is no name of a custom resource"),
        ('[[resources]]\ncustom = { "" = 1 }', "'' is no name of a custom resource"),
        ("[[resources]]\ncpus = 0.00001", "'cpus' is 1e-05"),
        ('[[resources]]\nwhen = { precison = "fp16" }', "no cell has the option 'precison'"),
        ('[[options]]\nwhen = { modle = "digits" }', "no cell has the option 'modle'"),
        ("[[resources]]\nwhen = 4", "'when' is no table"),
    ],
)
def test_what_is_no_resource_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text(f"{text}\n{HEAD}" if text.startswith("resources") else HEAD + text)
    with pytest.raises(ExportError, match=said):
        read_matrix(tmp_path / "fleet.toml")
