"""Which parts of a pipeline are built with its transformer, and how they differ from it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

from dsr_export.cli.options.pairs import each_once, split_pair

MOST = 16


class Parts(click.ParamType[tuple[str, ...]]):
    """Names of parts, with commas between them."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        names = tuple(part.strip() for part in str(value).split(","))
        if len(names) > MOST or not all(re.fullmatch(r"[a-z0-9_]+", name) for name in names):
            self.fail(f"{str(value)[:80]!r} is no list of parts; for example: --components all", param, ctx)
        return names


class OfPart(click.ParamType[tuple[str, str]]):
    """`PART=VALUE`."""

    name = "part=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        return split_pair(str(value), param, ctx, example="vae=fp32")


def pipeline_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--components`, which gives the command `parts`, and what is said of single ones."""
    said: dict[str, Any] = {"type": OfPart(), "multiple": True, "callback": each_once}
    options = (
        click.option(
            "--components",
            "parts",
            type=Parts(),
            default=(),
            metavar="all|NAME,...",
            help="Pipeline folder: its parts to build with the transformer, such as text_encoder,vae.",
        ),
        click.option("--component-precision", "part_precision", metavar="PART=PRECISION", help="Of one part.", **said),
        click.option("--component-batch", "part_batch", metavar="PART=MIN,OPT,MAX", help="Of one part.", **said),
    )
    for option in reversed(options):
        command = option(command)
    return command
