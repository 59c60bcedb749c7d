"""The command line: one command per file, loaded when it is called, so that `--help` is instant."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress

import click

from dsr_export.backends.memory_budget import bound_memory
from dsr_export.cli.exit_codes import DONE, FAILED, INTERRUPTED
from dsr_export.cli.process.interrupts import SAID, end_on_signals
from dsr_export.cli.process.streams import StdoutFailed, drop_answers, own_process
from dsr_export.readable import printable, shortened
from dsr_export.version import __version__

COMMANDS = {
    "build": "Build a verified bundle with engines from a model.",
    "verify": "Check a bundle's files and numbers; works without torch.",
    "sign": "Sign a bundle, for those who know your key.",
    "compile": "Build an engine from a bundle's graph, on the machine it will run on.",
    "run": "Run a bundle on inputs from an npz file.",
    "sample": "Draw samples from a bundle as a PNG grid.",
    "evaluate": "Judge the pictures that a bundle draws: FID, LPIPS and others, as a gate.",
    "inspect": "Show what is in a bundle or an ONNX file.",
    "diff": "Show how two bundles differ, and whether the second is worse.",
    "bench": "Time graphs or engines side by side.",
    "diagnose": "Find a model's outlier tokens, and what to do about them.",
    "fit": "Train registers for a model whose weights stay as they are.",
    "models": "List the registered models.",
    "doctor": "Show what is installed, and what each target needs.",
}

NO_MEMORY = b"error: out of memory\nhint: give it more memory (see `ulimit -v`, or the container's limit)\n"


class LazyGroup(click.Group):
    """Knows its commands by name and imports one only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"dsr_export.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dsr-export")
@click.option("--debug", is_flag=True, help="Show a traceback with errors; may stand anywhere.")
def cli(debug: bool) -> None:
    """Export diffusion transformers with Dual-Stage Registers to verified engines."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: 0 done, 1 error, 2 usage, 3 parity failed, 130 interrupted.

    With `arguments`, within a process that has other things to do: its signals and streams are left as they are.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    if arguments is None:
        own_process(debug=debug)
        end_on_signals()
        bound_memory()
    try:
        sys.exit(cli.main(_words(given), standalone_mode=False) or DONE)
    except click.ClickException as error:
        error.show(sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo(SAID.decode(), nl=False, file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        drop_answers()
        sys.exit(FAILED)
    except StdoutFailed as error:
        drop_answers()
        _complain(error, debug=debug)
    except Exception as error:
        _complain(error, debug=debug)
    sys.exit(FAILED)


def _words(given: list[str]) -> list[str]:
    if any("\0" in word for word in given):  # from a shell it cannot come
        raise click.UsageError("an argument holds a NUL character")
    return [word for word in given if word != "--debug"]


def _complain(error: Exception, *, debug: bool) -> None:
    try:
        from dsr_export.cli.printing.errors import explained

        if debug:
            traceback.print_exc()
        message, hint = explained(error)
        for word, text in (("error", message), ("hint", hint)):
            if text:
                click.echo(f"{word}: {shortened(printable(text))}", file=sys.stderr)
    except MemoryError:  # none is left to explain it with
        with suppress(OSError):
            os.write(2, NO_MEMORY)
