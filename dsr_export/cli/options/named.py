"""An option that takes one of a few names."""

from __future__ import annotations

from typing import Any

import click

from graphs.errors import did_you_mean


class Named(click.ParamType[str]):
    """One of a few names, with a suggestion for a misspelt one."""

    name = "name"

    def __init__(self, *names: str) -> None:
        self.names = names

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value not in self.names:
            suggestion = did_you_mean(str(value), self.names) or "choose from " + ", ".join(self.names)
            self.fail(f"{value!r} is unknown; {suggestion}", param, ctx)
        return value

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "[" + "|".join(self.names) + "]"
