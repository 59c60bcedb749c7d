"""The exit codes of the command line, and where a failed check becomes one of them."""

from __future__ import annotations

from typing import Final

import click

DONE: Final = 0
FAILED: Final = 1  # bad input, or something that this machine can't do; said as `error:` and `hint:`
USAGE: Final = click.UsageError.exit_code  # 2
PARITY_FAILED: Final = 3
INTERRUPTED: Final = 130  # the shells' convention for Ctrl-C


def exit_unless(passed: bool) -> None:
    """Ends the command with `PARITY_FAILED` where a check of numbers failed; what it wrote stands all the same."""
    if not passed:
        raise click.exceptions.Exit(PARITY_FAILED)
