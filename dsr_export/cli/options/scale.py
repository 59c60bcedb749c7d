"""A number as networks compute with it."""

from __future__ import annotations

from typing import Any

import click

LARGEST = 3e38  # of float32


class Scale(click.ParamType[float]):
    """A number: NaN and infinities are read as floats, and make pictures of nothing."""

    name = "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found: float = click.FLOAT.convert(value, param, ctx)
        if not abs(found) <= LARGEST:  # NaN is not
            self.fail(f"{value} is no number that a model computes with.", param, ctx)
        return found
