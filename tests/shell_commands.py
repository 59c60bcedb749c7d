"""`dsr-export` commands as they stand in documents and CI files: parsed by the command line's own parser."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click

from dsr_export.cli import COMMANDS, cli


def dsr_commands(script: str) -> Iterator[list[str]]:
    """The words after `dsr-export` of each such command in a shell script, up to a redirection or the command's end."""
    for line in script.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|\|\||;|(?<!\d)[<>]+\s*\S+|\bthen\b", line):
            words = shlex.split(part, comments=True)
            if words and words[0] == "dsr-export":
                yield words[1:]


def parse(words: list[str]) -> None:
    """Raises click.UsageError for a command or an option that does not exist, or a value of the wrong kind."""
    command = cli.get_command(click.Context(cli), words[0]) if words and words[0] in COMMANDS else None
    if command is None:
        raise click.UsageError(f"no such command: {words}")
    command.make_context(words[0], list(words[1:]))


def option_names(command: str) -> set[str]:
    found = cli.get_command(click.Context(cli), command)
    assert found is not None
    return {name for parameter in found.params for name in parameter.opts if name.startswith("-")}
