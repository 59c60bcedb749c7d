"""`METRIC=PATH` and `METRIC=BOUND`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import click

LONGEST = 4096


class NamedPath(click.ParamType[tuple[str, Path]]):
    """A metric's name and a path."""

    name = "metric=path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        name, text = _pair(str(value), param, ctx, "--network fid=inception.pth")
        return name, Path(text)


class Limits(click.ParamType[tuple[str, str]]):
    """A metric's name and a number, whose sign makes it relative."""

    name = "metric=bound"

    def __init__(self, side: Literal["max", "min"]) -> None:
        self.side = side

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        return _pair(str(value), param, ctx, f"--{self.side} psnr=30")


def _pair(given: str, param: click.Parameter | None, ctx: click.Context | None, example: str) -> tuple[str, str]:
    name, sign, text = given.partition("=")
    if not sign or re.fullmatch(r"[a-z][a-z0-9-]*", name) is None or not 0 < len(text) <= LONGEST:
        raise click.BadParameter(f"{given[:80]!r} is not NAME=VALUE; for example {example}", ctx=ctx, param=param)
    return name, text
