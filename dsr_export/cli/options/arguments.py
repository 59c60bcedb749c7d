"""`--option NAME=VALUE`: constructor arguments of a model's family, such as sizes; repeatable."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

LONGEST = 4096
Value = bool | int | float | str


class Argument(click.ParamType[tuple[str, Value]]):
    """A name and a value: a whole number, a number, true or false, else text."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        name, sign, text = str(value).partition("=")
        if not sign or re.fullmatch(r"[A-Za-z_]\w*", name) is None or not 0 < len(text) <= LONGEST:
            self.fail(f"{str(value)[:80]!r} is not NAME=VALUE; for example --option image_size=256", param, ctx)
        return name, value_of(text)


def value_of(text: str) -> Value:
    """What `text` stands for."""
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"[+-]?\d{1,18}", text):
        return int(text)
    if re.fullmatch(r"[+-]?\d{1,18}(\.\d{1,18})?(e[+-]?\d{1,3})?", text):
        return float(text)
    return text


def argument_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--option`, which gives the command a dictionary `arguments`."""
    return click.option(
        "--option",
        "arguments",
        type=Argument(),
        multiple=True,
        metavar="NAME=VALUE",
        callback=_unique,
        help="An option of the model's family, such as image_size=256; repeatable.",
    )(command)


def _unique(ctx: click.Context, param: click.Parameter, given: tuple[tuple[str, Value], ...]) -> dict[str, Value]:
    names = [name for name, _ in given]
    for name in names:
        if names.count(name) > 1:
            raise click.BadParameter(f"{name} is given twice", ctx=ctx, param=param)
    return dict(given)
