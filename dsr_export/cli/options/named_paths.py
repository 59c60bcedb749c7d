"""`METRIC=PATH` and `METRIC=BOUND`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from dsr_export.cli.options.pairs import split_pair

METRIC = r"[a-z][a-z0-9-]*"


class NamedPath(click.ParamType[tuple[str, Path]]):
    """A metric's name and a path."""

    name = "metric=path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        name, text = split_pair(str(value), param, ctx, example="--network fid=inception.pth", names=METRIC)
        return name, Path(text)


class Limits(click.ParamType[tuple[str, str]]):
    """A metric's name and a number, whose sign makes it relative."""

    name = "metric=bound"

    def __init__(self, side: Literal["max", "min"]) -> None:
        self.side = side

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        return split_pair(str(value), param, ctx, example=f"--{self.side} psnr=30", names=METRIC)
