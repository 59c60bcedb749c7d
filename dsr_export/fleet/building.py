"""Builds the cells of a matrix, each in a process of its own: one that fails, or dies, is a receipt like any other."""

from __future__ import annotations

import ctypes
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dsr_export.errors import ExportError
from dsr_export.fleet.matrix import Cell
from dsr_export.fleet.receipts import BUNDLES, FOLDER, LOGS, VERDICTS, Receipt, figures, finished, read_receipt
from dsr_export.progress import Reporter
from dsr_export.storage.locks import exclusive

PROGRAM = (sys.executable, "-m", "dsr_export")
LONGEST_ERROR = 500
_ERROR = re.compile(r"^error: (.*)$", re.M)


@dataclass(frozen=True)
class Ended:
    """A build that is over."""

    exit_code: int
    answer: str
    log: str


Build = Callable[[Sequence[str], Path], Ended]
"""Runs `dsr-export` with these words; the second is where its log goes."""


def build_cells(
    cells: Sequence[Cell],
    out: Path,
    *,
    resume: bool,
    jobs: int,
    shown: Reporter,
    share: str | None = None,
    build: Build | None = None,
) -> list[Receipt]:
    """A receipt for each cell, in their order; bundles, receipts and logs go into folders of `out`.

    `share` names those cells where they are not all: others may be built into `out` at the same time.

    Raises:
        ExportError: another process builds into `out`, it holds receipts and `resume` is not asked for, or it cannot
            be written.
    """
    with exclusive(out if share is None else out / share):
        _prepare(out, resume=resume)
        done: list[str] = []
        with shown.stage("cells") as bar, ThreadPoolExecutor(jobs) as workers:

            def one(cell: Cell) -> Receipt:
                receipt = _receipt(cell, out, build or run_build)
                done.append(cell.name)
                bar(len(done), len(cells))
                shown.note(f"{cell.name}: {receipt.verdict}")
                return receipt

            waiting = [workers.submit(partial(one, cell)) for cell in cells]
            try:
                return [each.result() for each in waiting]
            except BaseException:
                for each in waiting:
                    each.cancel()
                raise


def _prepare(out: Path, *, resume: bool) -> None:
    try:
        if (out / FOLDER).is_dir() and any((out / FOLDER).iterdir()) and not resume:
            raise ExportError(
                f"{out} holds receipts of an earlier run", hint="go on with --resume, or give another --out"
            )
        for folder in (FOLDER, BUNDLES, LOGS):
            (out / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"can't write {out}: {error.strerror or error}", hint="give another --out") from error


def _receipt(cell: Cell, out: Path, build: Build) -> Receipt:
    """What is there already, or what a build makes."""
    place = f"{BUNDLES}/{cell.name}.dsr"
    command = ["build", *cell.words, "--out", str(out / place), "--force", "--json"]
    known = read_receipt(out, cell.name)
    if known is not None and finished(known, cell, command, out):
        return known
    began = time.monotonic()
    ended = build(command, out / LOGS / f"{cell.name}.log")
    verdict = VERDICTS.get(ended.exit_code, "not built")
    more: dict[str, Any] = {"error": _reason(ended)} if verdict == "not built" else {"bundle": place}
    if verdict != "not built":
        more |= figures(out / place, ended.answer)
    receipt = Receipt(
        cell=cell.name,
        values=cell.values,
        command=tuple(command),
        exit_code=ended.exit_code,
        verdict=verdict,
        seconds=round(time.monotonic() - began, 1),
        **more,
    )
    receipt.save(out)
    return receipt


def _reason(ended: Ended) -> str:
    """The last error that the build told of, or how it ended."""
    told = _ERROR.findall(ended.log)
    if told:
        return str(told[-1])[:LONGEST_ERROR]
    if ended.exit_code < 0:
        return f"it was ended by {signal.Signals(-ended.exit_code).name}: see its log"
    return f"it ended with exit code {ended.exit_code}: see its log"


def run_build(command: Sequence[str], log: Path) -> Ended:
    """In a process that ends with this one. Its stderr goes to `log` as it comes."""
    with log.open("w+", encoding="utf-8", errors="replace") as stream:
        done = subprocess.run(
            [*PROGRAM, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stream,
            encoding="utf-8",
            errors="replace",
            check=False,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        stream.seek(0)
        return Ended(done.returncode, done.stdout, stream.read())


def _end_with_parent() -> None:
    """A driver that is killed takes its builds along: else the next one would find their outputs locked."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
