"""`--matrix` of `build`, and what goes with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dsr_export.cli.options.executor import MOST_JOBS, NAMES, executor_options
from dsr_export.cli.process.streams import answer, answer_json
from dsr_export.cluster.request import ExecutorRequest
from dsr_export.fleet.request import FleetRequest

if TYPE_CHECKING:
    from dsr_export.progress import Reporter

BESIDE = ("matrix", "resume", "cell", "jobs", "html", "markdown", "out", "as_json", *NAMES)
"""Options that go with `--matrix`; all others belong into its file."""


def fleet_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options, which give the command `fleet`, None without `--matrix`."""

    @executor_options
    @wraps(command)
    def collected(*args: Any, matrix: Path | None, executor: ExecutorRequest, **given: Any) -> Any:
        own = {key: given.pop(key) for key in ("resume", "cell", "jobs", "html", "markdown")}
        usual = {"jobs": None, "resume": False}
        if matrix is None and executor.kind != "local":
            raise click.UsageError("--executor goes with --matrix")
        if matrix is None and (asked := [key for key, value in own.items() if value != usual.get(key)]):
            raise click.UsageError(f"--{asked[0]} goes with --matrix")
        fleet = None if matrix is None else FleetRequest(matrix=matrix, executor=executor, **own)
        return command(*args, fleet=fleet, **given)

    path = click.Path(path_type=Path)
    for option in (
        click.option("--markdown", type=path, metavar="FILE", help="Matrix: also write the summary as Markdown."),
        click.option("--html", type=path, metavar="FILE", help="Matrix: also write the summary as a page."),
        click.option("--jobs", type=click.IntRange(1, MOST_JOBS), help="Matrix: cells at once. [default: 1; Ray: all]"),
        click.option("--cell", metavar="I/N", help="Matrix: build one of N shares only, as a job array does."),
        click.option("--resume", is_flag=True, help="Matrix: go on where an earlier run was stopped."),
        click.option("--matrix", type=path, metavar="FILE", help="Build the cells of this TOML file into --out."),
    ):
        collected = option(collected)
    return collected


def show_fleet(
    context: click.Context, fleet: FleetRequest, out: Path | None, *, as_json: bool, shown: Reporter
) -> None:
    """Builds, prints the summary, and exits with its code. UsageError for options of a single build."""
    for name in context.params:
        if name not in BESIDE and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = next(each for each in context.command.params if each.name == name)
            raise click.UsageError(f"{option.opts[0]} does not go with --matrix: write it into {fleet.matrix}")
    from dsr_export.fleet.command import built_fleet
    from dsr_export.fleet.summary import exit_code, summary_dict, summary_lines

    receipts = built_fleet(replace(fleet, out=out), shown)
    if as_json:
        answer_json(summary_dict(receipts))
    else:
        answer("\n".join(summary_lines(receipts)))
    if code := exit_code(receipts):
        raise click.exceptions.Exit(code)
