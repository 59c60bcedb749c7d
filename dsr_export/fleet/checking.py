"""A matrix is checked as a whole before anything starts: options, precisions, targets and files of every cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

from dsr_export.backends.gpu import compute_capability
from dsr_export.building.build import Build
from dsr_export.config import ExportConfig
from dsr_export.errors import ExportError
from dsr_export.fleet.matrix import Cell
from dsr_export.progress import Silent
from dsr_export.stages.stage import stage_key
from dsr_export.storage.canonical import canonical_digest
from graphs.targets import target


def cell_configs(cells: Sequence[Cell]) -> dict[str, ExportConfig]:
    """What each cell asks `build` for, by the cell's name. ExportError, naming the cell, for what `build` has not."""
    found: dict[str, ExportConfig] = {}
    for cell in cells:
        with of_cell(cell.name):
            found[cell.name] = config = cell_config(cell)
            for name in config.targets:
                target(name)
    return found


def check_precisions(configs: Mapping[str, ExportConfig], *, here: bool) -> None:
    """Raises ExportError, naming the cell, for a precision that a target lacks; reads no file.

    Where cells are not built `here`, neither this machine's GPU nor its default target decides.
    """
    gpu = compute_capability() if here else None
    for name, config in configs.items():
        if here or config.targets:
            with of_cell(name):
                Build(config, Silent()).check_precisions(gpu)


def check_cells(configs: Mapping[str, ExportConfig]) -> dict[str, str]:
    """By the cell's name: what identifies everything that it reads, by content. A file of many cells is read once.

    Raises ExportError, naming the cell, for what `build` would refuse before it loads a model.
    """
    known: dict[str, Any] = {}
    found: dict[str, str] = {}
    for name, config in configs.items():
        with of_cell(name):
            found[name] = canonical_digest(stage_key(Build(config, Silent(), known=known).reads))
    return found


@contextmanager
def of_cell(cell: str) -> Iterator[None]:
    """Errors within the block name the cell."""
    try:
        yield
    except ExportError as error:
        raise ExportError(f"cell {cell}: {error.message}", hint=error.hint) from error


def cell_config(cell: Cell) -> ExportConfig:
    """What the cell asks `build` for. ExportError for options that it does not have, and values they do not take."""
    from dsr_export.cli.build import ConfigOnly, command

    wanted = ConfigOnly()
    try:
        with command.make_context("build", cell.words, obj=wanted) as context:
            click.Command.invoke(command, context)  # its own would take stdout away, as it does for answers
    except click.UsageError as error:
        raise ExportError(error.format_message(), hint="see `dsr-export build --help`") from error
    assert wanted.config is not None  # the command has been called
    return wanted.config
