"""From `fleet.toml` to cells."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsr_export.errors import ExportError
from dsr_export.fleet.checking import cell_config, cell_configs, check_cells
from dsr_export.fleet.matrix import Cell, read_matrix

FULL = """
[matrix]
model = ["digits", "digits-outliers"]
precision = ["fp16", "int8"]
target = ["rtx", "onnxruntime"]
batch = "1,2,2"
exclude = [{ model = "digits", precision = "int8" }]
include = [{ model = "rae-dit-s", precision = "fp16", target = "rtx" }]

[[options]]
when = { model = "rae-dit-s" }
random-weights = 0
fuse-step = true
strict = false
"""


def _cells(folder: Path, text: str) -> tuple[Cell, ...]:
    (folder / "fleet.toml").write_text(text, encoding="utf-8")
    return read_matrix(folder / "fleet.toml")


def test_axes_are_multiplied_and_rows_taken_out_and_added(tmp_path: Path) -> None:
    cells = _cells(tmp_path, FULL)
    assert [cell.name for cell in cells] == [
        *("digits-fp16-rtx", "digits-fp16-onnxruntime"),
        *("digits-outliers-fp16-rtx", "digits-outliers-fp16-onnxruntime"),
        *("digits-outliers-int8-rtx", "digits-outliers-int8-onnxruntime"),
        "rae-dit-s-fp16-rtx",
    ]
    assert cells[0].words == ["digits", "--batch", "1,2,2", "--precision", "fp16", "--target", "rtx"]
    assert cells[-1].words[-3:] == ["--random-weights", "0", "--fuse-step"]
    check_cells(cell_configs(cells))
    config = cell_config(cells[-1])
    assert (config.model, config.random_weights, config.fuse_step, config.batch.max) == ("rae-dit-s", 0, True, 2)


@pytest.mark.parametrize(("precision", "prefix"), [("int8", ""), ("int8", "int8-"), ("fp8", "")])
def test_options_that_are_collected_reach_the_config(tmp_path: Path, precision: str, prefix: str) -> None:
    more = f'{prefix}budget = 30\n{prefix}method = "mse"\n'
    (cell,) = _cells(tmp_path, f'[matrix]\nmodel = ["digits"]\nprecision = "{precision}"\n{more}')
    config = cell_config(cell)
    assert (config.precision, config.int8.budget_db, config.int8.method) == (precision, 30, "mse")


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4), data=st.data())
def test_every_combination_is_one_cell_with_a_name_of_its_own(
    sizes: list[int], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = st.text("aA2/._ -é", max_size=5)
    axes = {f"axis-{i}": data.draw(st.lists(text, min_size=n, max_size=n, unique=True)) for i, n in enumerate(sizes)}
    lines = ["[matrix]", *(f"{key} = {[str(v) for v in values]}" for key, values in axes.items())]
    cells = _cells(tmp_path_factory.mktemp("matrix"), "\n".join(lines))
    assert [tuple(cell.values.values()) for cell in cells] == list(itertools.product(*axes.values()))
    names = [cell.name for cell in cells]
    assert len({name.casefold() for name in names}) == len(names)
    assert not any(set(name) & set("/ \0") or name.startswith(".") for name in names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks 'matrix'"),
        ("matrix = 3", "'matrix' is not a table"),
        ("[matrix]", "has no cell"),
        ('[matrix]\nmodel = "digits"', "has no cell"),
        ("[matrix]\nmodel = []", "axis 'model' is empty"),
        ("[matrix]\nmodel = [[1]]", "'model' is a list"),
        ('[matrix]\nmodel = ["a"]\nout = "x"', "'out' is the matrix's own"),
        ('[matrix]\nmodel = ["a"]\n"--x" = 1', "is no option"),
        ('[matrix]\nmodel = ["a", "a"]', "one cell twice"),
        ('[matrix]\nmodel = ["a"]\nexclude = [{ model = "a" }]', "has no cell"),
        ('[matrix]\nmodel = ["a"]\ninclude = 3', "'include' is no list of tables"),
        ('[matrix]\nmodel = ["a"]\n[options]\nwhen = 3', "'options' is no list of tables"),
        ('[matrix]\nmodel = ["a"]\n[[options]]\nwhen = 3', "'when' is no table"),
        ("[matrix", "is no TOML"),
        ("[axes]\nmodel = []", "no key 'axes'"),
        ("[matrix]\na = " + str(list(range(101))) + "\nb = " + str(list(range(100))), "more than 10000 cells"),
    ],
)
def test_what_is_no_matrix_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        _cells(tmp_path, text)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('target = "rtz"', "rtz"),
        ('precision = "fp12"', "fp12"),
        ('batch = "2,1"', "is not MIN,OPT,MAX"),
        ("no-such-option = 1", "No such option"),
        ('int8-budget = 3\nprecision = "fp16"', "calibration options do not apply to fp16"),
        ("random-weights = true", "random-weights"),
    ],
)
def test_cells_are_checked_before_anything_starts(tmp_path: Path, more: str, message: str) -> None:
    cells = _cells(tmp_path, f'[matrix]\nmodel = ["digits"]\n{more}\n')
    with pytest.raises(ExportError, match=rf"cell digits: .*{message}"):
        check_cells(cell_configs(cells))


def test_a_model_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cell digitz") as caught:
        check_cells(cell_configs(_cells(tmp_path, '[matrix]\nmodel = ["digits", "digitz"]')))
    assert "digits" in str(caught.value.hint)
