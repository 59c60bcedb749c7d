"""`dsr-export models`."""

from __future__ import annotations

import dataclasses

import click

from dsr_export.cli.process.streams import Command, answer, answer_json


@click.command("models", cls=Command)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, and nothing else.")
def command(as_json: bool) -> None:
    """List the registered models; the first is the default."""
    from dsr_export.families import models

    entries = models()
    if as_json:
        answer_json({"models": [dataclasses.asdict(entry) for entry in entries]})
        return
    for entry in entries:
        size = "" if entry.parameters is None else f"{entry.parameters / 1e6:.1f} M"
        weights = "packaged" if entry.packaged else "--checkpoint"
        answer(f"{entry.name:<22} {entry.family:<22} {size:>8}  {weights:<13} {entry.description}")
