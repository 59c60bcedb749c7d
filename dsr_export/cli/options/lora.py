"""`--lora FILE[:SCALE]`: adapters that are merged into a diffusers transformer; repeatable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from dsr_export.declarations.lora_file import LoraFile


class Adapter(click.ParamType[LoraFile]):
    """A file, and behind a colon how much of it is added."""

    name = "file[:scale]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> LoraFile:
        return value if isinstance(value, LoraFile) else LoraFile.parse(str(value))


def lora_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--lora`, which gives the command a tuple `loras`."""
    return click.option(
        "--lora",
        "loras",
        type=Adapter(),
        multiple=True,
        metavar="FILE[:SCALE]",
        help="--model-dir: a LoRA adapter to merge into the transformer; repeatable.",
    )(command)
