"""A matrix is checked as a whole before anything starts: options, precisions, targets and models of every cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import click

from dsr_export.config import ExportConfig, ModelRequest
from dsr_export.errors import ExportError
from dsr_export.fleet.matrix import Cell
from dsr_export.sources import find_source
from dsr_export.storage.canonical import canonical_digest
from graphs.targets import target


def check_cells(cells: Sequence[Cell]) -> dict[str, str]:
    """What identifies the model of each cell, by the cell's name: its weights and options.

    Raises ExportError, naming the cell, for what `build` would refuse before it loads a model.
    """
    known: dict[str, str] = {}
    found: dict[str, str] = {}
    for cell in cells:
        try:
            config = cell_config(cell)
            for name in config.targets:
                target(name)
            if (model := _model(config)) not in known:
                known[model] = canonical_digest(find_source(config).key())  # reads every file of the model
            found[cell.name] = known[model]
        except ExportError as error:
            raise ExportError(f"cell {cell.name}: {error.message}", hint=error.hint) from error
    return found


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


def _model(config: ExportConfig) -> str:
    """What tells models apart: the fields of a request."""
    return repr({each.name: getattr(config, each.name) for each in fields(ModelRequest)})
