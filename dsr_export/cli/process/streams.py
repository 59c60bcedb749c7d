"""stdout is for the answer alone: while a command works, whatever else prints, in Python or in C, prints to stderr."""

from __future__ import annotations

import ctypes
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

import click

from dsr_export.errors import ExportError
from dsr_export.readable import printable
from dsr_export.reports.plain_json import plain
from dsr_export.storage.output_target import set_stdout

WORDS = "dsr_export.words"
_answers: list[IO[str]] = []  # where answers go; the last is in use
_for_good: list[bool] = [False]


class Command(click.Command):
    """A command whose stdout holds what it says by `answer`, and nothing else. `WORDS` of its context started it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[WORDS] = (str(ctx.info_name), *args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        with _stdout_kept():
            return super().invoke(ctx)


def answer(text: str) -> None:
    """Prints a line of the command's result."""
    click.echo(printable(text), file=_answers[-1] if _answers else None)


def answer_json(value: Any) -> None:
    """Prints the result as one JSON object; figures that JSON has no form for are null."""
    answer(json.dumps(plain(value), sort_keys=True, allow_nan=False))


def own_process(*, debug: bool) -> None:
    """Settles the streams of a process that runs one command and ends.

    Closed descriptors are opened onto nothing: else the next file that is opened would get what C prints. A character
    that a stream's encoding lacks is printed as its number. Warnings and log messages of libraries appear with `debug`
    (or Python's -W) only.
    """
    _for_good[0] = True  # what a library prints when it is unloaded is no answer either
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    encodings = ["utf-8" if stream is None else stream.encoding for stream in (sys.stdout, sys.stderr)]
    sys.stdout = _text(_Answers(1, "w", closefd=False), encodings[0])
    sys.stderr = _text(_Remarks(2, "w", closefd=False), encodings[1])
    if not debug:
        logging.disable(logging.CRITICAL)
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        if not sys.warnoptions:
            warnings.simplefilter("ignore")


class StdoutFailed(ExportError):
    """stdout does not take what it is given, as on a full disk."""


class _Answers(io.FileIO):
    """stdout: what it does not take is an error of its own, however the text gets here."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise StdoutFailed(f"can't write to stdout: {error.strerror}") from error


class _Remarks(io.FileIO):
    """stderr: that nobody can read remarks is no reason to end the work."""

    def write(self, data: Any) -> int:
        with suppress(OSError):
            return super().write(data)
        return len(data)


def _text(raw: io.FileIO, encoding: str) -> io.TextIOWrapper:
    """A character that the encoding lacks is written as its number."""
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors="backslashreplace", line_buffering=True)


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
        set_stdout(saved)
        _answers.append(_text(_Answers(saved, "w"), before.encoding))
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
        set_stdout(1)
        answers.flush()
        ctypes.CDLL(None).fflush(None)  # what C still holds back was printed while stdout was not its own
        os.dup2(saved, 1)
        answers.close()


def _is_descriptor(stream: Any) -> bool:
    try:
        return bool(stream.fileno() == 1)
    except (OSError, ValueError, AttributeError):
        return False
