"""`NAME=VALUE` on the command line, each name once."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import click

LONGEST = 4096
IDENTIFIER = r"[A-Za-z_]\w*"
Value = TypeVar("Value")


def split_pair(
    given: str, param: click.Parameter | None, ctx: click.Context | None, *, example: str, names: str = IDENTIFIER
) -> tuple[str, str]:
    """The name, which matches `names`, and the text behind the sign. Raises `click.BadParameter` for anything else."""
    name, sign, text = given.partition("=")
    if not sign or re.fullmatch(names, name) is None or not 0 < len(text) <= LONGEST:
        raise click.BadParameter(f"{given[:80]!r} is not NAME=VALUE; for example {example}", ctx=ctx, param=param)
    return name, text


def each_once(ctx: click.Context, param: click.Parameter, given: tuple[tuple[str, Value], ...]) -> dict[str, Any]:
    """A callback: the pairs of a repeated option as a dictionary."""
    names = [name for name, _ in given]
    for name in names:
        if names.count(name) > 1:
            raise click.BadParameter(f"{name} is given twice", ctx=ctx, param=param)
    return dict(given)
