"""stdout is for the answer alone: while a command works, whatever else prints, in Python or in C, prints to stderr."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

import click

from dsr_export.plain_json import plain

_answers: list[IO[str]] = []  # where answers go; the last is in use
_for_good: list[bool] = [False]


class Command(click.Command):
    """A command whose stdout holds what it says by `answer`, and nothing else."""

    def invoke(self, ctx: click.Context) -> Any:
        with _stdout_kept():
            return super().invoke(ctx)


def answer(text: str) -> None:
    """Prints a line of the command's result."""
    click.echo(text, file=_answers[-1] if _answers else None)


def answer_json(value: Any) -> None:
    """Prints the result as one JSON object; figures that JSON has no form for are null."""
    answer(json.dumps(plain(value), sort_keys=True, allow_nan=False))


def own_process(*, debug: bool) -> None:
    """Settles the streams of a process that runs one command and ends.

    Closed descriptors are opened onto nothing: else the next file that is opened would get what C prints. Warnings
    and log messages of libraries appear with `debug` (or Python's -W) only.
    """
    _for_good[0] = True  # what a library prints when it is unloaded is no answer either
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115 (a device, for the life of the process)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115
    if not debug:
        logging.disable(logging.CRITICAL)
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        if not sys.warnoptions:
            warnings.simplefilter("ignore")


def drop_answers() -> None:
    """Nobody reads them any more: what is left goes nowhere, without a message at the end of the process."""
    with suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, (_answers[-1] if _answers else sys.stdout).fileno())
        os.close(nothing)


@contextmanager
def _stdout_kept() -> Iterator[None]:
    """Answers go where stdout went. A stream that is no descriptor, as in tests, is replaced in Python only."""
    before, saved = sys.stdout, None
    if _is_descriptor(before):
        before.flush()
        saved = os.dup(1)
        os.dup2(2, 1)
        _answers.append(open(saved, "w", encoding=before.encoding, errors=before.errors))  # noqa: PTH123, SIM115
    else:
        _answers.append(before)
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        if not _for_good[0]:
            _put_back(before, saved)


def _put_back(stdout: Any, saved: int | None) -> None:
    answers = _answers.pop()
    sys.stdout = stdout
    if saved is not None:
        answers.flush()
        ctypes.CDLL(None).fflush(None)  # what C still holds back was printed while stdout was not its own
        os.dup2(saved, 1)
        answers.close()


def _is_descriptor(stream: Any) -> bool:
    try:
        return bool(stream.fileno() == 1)
    except (OSError, ValueError, AttributeError):
        return False
