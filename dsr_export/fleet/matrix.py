"""`fleet.toml`: which builds there are. Each is a cell, and every key an option of `dsr-export build`.

[matrix]                                  # lists are axes, single values are for every cell
model = ["digits", "digits-outliers"]
precision = ["fp16", "int8"]
target = ["rtx", "onnxruntime"]
batch = "1,2,2"
exclude = [{ model = "digits", precision = "int8" }]
include = [{ model = "rae-dit-s", precision = "fp16", target = "rtx" }]

[[options]]                               # further options of the cells that `when` picks
when = { model = "rae-dit-s" }
random-weights = 0

[[resources]]                             # what their machines must have, where an executor chooses these
when = { precision = "int8" }
cpus = 4
memory = "16GB"                           # as well: gpus = 1, accelerator = "L4", custom = { jetson = 1 }
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dsr_export.cluster.request import Resources
from dsr_export.declarations.toml_file import read_toml
from dsr_export.declarations.toml_table import Table
from dsr_export.errors import ExportError, did_you_mean
from dsr_export.fleet.resources import needs_of, read_resources

MOST_CELLS = 10_000
MODEL, INCLUDE, EXCLUDE, WHEN = "model", "include", "exclude", "when"
OWN = ("out", "force", "json", "matrix", "resume", "cell", "jobs", "html", "markdown", "executor", "address", "storage")
"""Options that the matrix itself gives to every cell, or that are its own."""
LONGEST_NAME = 100

Value = str | int | float | bool
Values = Mapping[str, Value]


@dataclass(frozen=True)
class Cell:
    """One build. `values` are options of `build` by their long names, and `model`; `needs` is of its machine."""

    name: str
    values: Values
    needs: Resources = field(default_factory=Resources)

    @property
    def words(self) -> list[str]:
        """What follows `dsr-export build`: the model, and options. True is a flag, False leaves it away."""
        words = [str(self.values[MODEL])] if MODEL in self.values else []
        for key, value in self.values.items():
            if key == MODEL or value is False:
                continue
            words += [f"--{key}"] if value is True else [f"--{key}", str(value)]
        return words


def read_matrix(path: Path) -> tuple[Cell, ...]:
    """The cells of a file, in its order. ExportError for what is no matrix, an empty one, or two equal cells."""
    root = Table(str(path), read_toml(path, "--matrix", what="axes are lists, and many cells need few lines"))
    root.check_keys("matrix", "options", "resources")
    table = root.require("matrix", '{ model = ["digits"], precision = ["fp16", "int8"] }')
    if not isinstance(table, dict):
        raise ExportError(f"{path}: 'matrix' is not a table", hint="write [matrix] on a line of its own")
    own = {key: value for key, value in table.items() if key not in (INCLUDE, EXCLUDE)}
    constant = {key: value for key, value in own.items() if not isinstance(value, list)}
    axes = {key: value for key, value in own.items() if isinstance(value, list)}
    _check_axes(path, constant, axes)
    excluded = _rows(path, table, EXCLUDE)
    made = [row for row in _product(axes) if not any(_matches({**constant, **row}, each) for each in excluded)]
    found = [{**constant, **row} for row in [*made, *_rows(path, table, INCLUDE)]]
    extra = _options(path, root)
    cells = [_with_options(values, extra) for values in found]
    _check_cells(path, cells)
    tables = read_resources(path, root.values.get("resources", []))
    _check_picks(path, [when for when, _ in (*extra, *tables)], cells)
    named = zip(_names(cells, list(axes)), cells, strict=True)
    return tuple(Cell(name, values, needs_of(values, tables)) for name, values in named)


def _check_picks(path: Path, picks: Sequence[Mapping[str, Any]], cells: Sequence[Values]) -> None:
    known = {name for values in cells for name in values}
    for when in picks:
        for name in when:
            if name not in known:
                hint = did_you_mean(name, known) or "`when` picks cells by the options they have"
                raise ExportError(f"{path}: no cell has the option '{str(name)[:40]}' that '{WHEN}' names", hint=hint)


def _check_axes(path: Path, constant: Mapping[str, Any], axes: Mapping[str, list[Any]]) -> None:
    for key, values in axes.items():
        if not values:
            raise ExportError(f"{path}: the axis '{key}' is empty", hint="give it a value, or leave it away")
    for key, value in [*constant.items(), *((key, each) for key, values in axes.items() for each in values)]:
        _check_value(path, key, value)
    count = 1
    for values in axes.values():
        count *= len(values)
        if count > MOST_CELLS:
            raise ExportError(f"{path} has more than {MOST_CELLS} cells", hint="split it into several files")


def _check_value(path: Path, key: str, value: object) -> None:
    if key in OWN:
        raise ExportError(f"{path}: '{key}' is the matrix's own, and not a cell's", hint="give it on the command line")
    if re.fullmatch(r"[a-z][a-z0-9-]*", key) is None:
        raise ExportError(
            f"{path}: '{key[:80]}' is no option of `dsr-export build`", hint="options have their long names"
        )
    if not isinstance(value, (str, int, float)):
        raise ExportError(f"{path}: '{key}' is a {type(value).__name__}", hint="options are texts, numbers and flags")


def _product(axes: Mapping[str, list[Value]]) -> Iterator[dict[str, Value]]:
    if axes:
        yield from (dict(zip(axes, each, strict=True)) for each in itertools.product(*axes.values()))


def _rows(path: Path, table: Mapping[str, Any], key: str) -> list[Values]:
    rows = table.get(key, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row for row in rows):
        raise ExportError(f"{path}: '{key}' is no list of tables", hint=f'{key} = [{{ model = "digits" }}]')
    for row in rows:
        for name, value in row.items():
            _check_value(path, name, value)
    return rows


def _options(path: Path, root: Table) -> list[tuple[Values, Values]]:
    """Of each `[[options]]`: which cells it is for, and what it adds."""
    tables = root.values.get("options", [])
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        raise ExportError(f"{path}: 'options' is no list of tables", hint="write [[options]] on a line of its own")
    found: list[tuple[Values, Values]] = []
    for each in tables:
        when = each.get(WHEN, {})
        if not isinstance(when, dict):
            raise ExportError(f"{path}: '{WHEN}' is no table", hint='when = { model = "digits" }')
        more = {key: value for key, value in each.items() if key != WHEN}
        for name, value in [*when.items(), *more.items()]:
            _check_value(path, name, value)
        found.append((when, more))
    return found


def _with_options(values: Values, extra: Sequence[tuple[Values, Values]]) -> dict[str, Value]:
    made = dict(values)
    for when, more in extra:
        if _matches(values, when):
            made |= more
    return made


def _matches(values: Values, wanted: Values) -> bool:
    return all(key in values and values[key] == value for key, value in wanted.items())


def _check_cells(path: Path, cells: Sequence[Values]) -> None:
    if not cells:
        raise ExportError(f"{path} has no cell", hint="give [matrix] a list, such as precision, or `include`")
    seen: list[Values] = []
    for cell in cells:
        if cell in seen:
            said = ", ".join(f"{key} {value}" for key, value in cell.items())
            raise ExportError(f"{path} has one cell twice: {said}", hint="leave it away in `include`")
        seen.append(cell)


def _names(cells: Sequence[Values], axes: Sequence[str]) -> list[str]:
    """From the model and the axes: short, fit for a file system, each once."""
    keys = [MODEL, *(axis for axis in axes if axis != MODEL)]
    names: list[str] = []
    for cell in cells:
        parts = [_slug(str(cell[key])) for key in keys if key in cell] or ["cell"]
        name = "-".join(part for part in parts if part)[:LONGEST_NAME] or "cell"
        names.append(_unused(name, names))
    return names


def _unused(name: str, names: Sequence[str]) -> str:
    """`name`, with a number where that is taken: file systems may take `A` for `a`."""
    taken = {each.casefold() for each in names}
    tries = itertools.chain([name], (f"{name}.{i}" for i in itertools.count(2)))
    return next(each for each in tries if each.casefold() not in taken)


def _slug(text: str) -> str:
    name = text.rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")
