"""`--executor`, `--address` and `--storage`: where the parts of a command run."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from dsr_export.cluster.request import EXECUTORS, ExecutorRequest

NAMES = ("executor", "address", "storage")
MOST_JOBS = 256


def executor_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options, which give the command `executor`."""

    @wraps(command)
    def collected(*args: Any, executor: Any, address: str | None, storage: str | None, **given: Any) -> Any:
        if executor != "ray" and (name := "address" if address else "storage" if storage else None):
            raise click.UsageError(f"--{name} goes with --executor ray")
        asked = ExecutorRequest(kind=executor, address=address, storage=storage)
        return command(*args, executor=asked, **given)

    for option in (
        click.option(
            "--storage",
            metavar="URL",
            help="Ray: a path or fsspec URL that all machines share. [default: in --out, or in the cache]",
        ),
        click.option("--address", metavar="HOST:PORT", help="Ray: a running cluster. [default: one on this machine]"),
        click.option(
            "--executor",
            type=click.Choice(EXECUTORS),
            default="local",
            show_default=True,
            help="Where parts run: in processes here, or as tasks of a Ray cluster.",
        ),
    ):
        collected = option(collected)
    return collected
