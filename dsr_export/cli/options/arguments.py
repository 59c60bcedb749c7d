"""`--option NAME=VALUE`: constructor arguments of a model's family, such as sizes; repeatable."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

from dsr_export.cli.options.pairs import each_once, split_pair

Value = bool | int | float | str


class Argument(click.ParamType[tuple[str, Value]]):
    """A name and a value: a whole number, a number, true or false, else text."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        name, text = split_pair(str(value), param, ctx, example="--option image_size=256")
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
        callback=each_once,
        help="An option of the model's family, such as image_size=256; repeatable.",
    )(command)
