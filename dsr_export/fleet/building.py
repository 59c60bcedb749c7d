"""Builds the cells of a matrix, each in a process of its own: one that fails, or dies, is a receipt like any other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from dsr_export.cluster.commands import Ended, last_error, run_command
from dsr_export.errors import ExportError
from dsr_export.fleet.matrix import Cell
from dsr_export.fleet.receipts import (
    BUNDLES,
    FOLDER,
    LOGS,
    VERDICTS,
    Receipt,
    figures,
    finished,
    read_receipt,
    receipt_path,
)
from dsr_export.progress import Reporter
from dsr_export.storage.leftovers import remove_leftovers
from dsr_export.storage.locks import exclusive

Build = Callable[[Cell, Sequence[str], Path], Ended]
"""Runs `dsr-export` with these words for a cell; the third is where its log goes."""


def build_cells(
    cells: Sequence[Cell],
    out: Path,
    *,
    resume: bool,
    jobs: int,
    shown: Reporter,
    share: str | None = None,
    sources: Mapping[str, str] | None = None,
    build: Build | None = None,
) -> list[Receipt]:
    """A receipt for each cell, in their order; bundles, receipts and logs go into folders of `out`.

    `sources` are what identifies all that is read, by cell (`check_cells`): where it changed, the cell is built again.
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
                with exclusive(receipt_path(out, cell.name)):  # a whole run, and a share of it
                    receipt = _receipt(cell, out, (sources or {}).get(cell.name), build or build_here)
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
        check_fresh(out, resume=resume)
        for folder in (out, out / FOLDER, out / BUNDLES, out / LOGS):
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)
    except OSError as error:
        raise ExportError(f"can't write {out}: {error.strerror or error}", hint="give another --out") from error


def check_fresh(out: Path, *, resume: bool) -> None:
    """Raises ExportError where `out` holds receipts, and `resume` is not asked for."""
    if (out / FOLDER).is_dir() and any((out / FOLDER).glob("*.json")) and not resume:
        raise ExportError(f"{out} holds receipts of an earlier run", hint="go on with --resume, or give another --out")


def _receipt(cell: Cell, out: Path, source: str | None, build: Build) -> Receipt:
    """What is there already, or what a build makes."""
    place = f"{BUNDLES}/{cell.name}.dsr"
    command = ["build", *cell.words, "--out", str(out / place), "--force", "--json"]
    known = read_receipt(out, cell.name)
    if known is not None and finished(known, cell, command, source, out):
        return known
    began = time.monotonic()
    ended = build(cell, command, out / LOGS / f"{cell.name}.log")
    verdict = VERDICTS.get(ended.exit_code, "not built")
    more: dict[str, Any] = {"error": last_error(ended)} if verdict == "not built" else {"bundle": place}
    if verdict != "not built":
        more |= figures(out / place, ended.answer)
    receipt = Receipt(
        cell=cell.name,
        values=cell.values,
        command=tuple(command),
        exit_code=ended.exit_code,
        verdict=verdict,
        source=source,
        seconds=round(time.monotonic() - began if ended.seconds is None else ended.seconds, 1),
        **more,
    )
    receipt.save(out)
    return receipt


def build_here(_: Cell, command: Sequence[str], log: Path) -> Ended:
    """In a process of this machine."""
    return run_command(command, log)
