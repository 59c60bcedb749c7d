"""Progress on stderr: stage and elapsed time, a bar where the total is known, a spinner where not."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

EVERY = 20.0  # seconds between two lines about a stage, where nothing can move
Bar = Callable[[int, int], None]
"""Moves a stage's bar: done, total."""


class Reporter(Protocol):
    """Where progress and remarks go."""

    def stage(self, name: str) -> AbstractContextManager[Bar]: ...

    def note(self, text: str) -> None: ...


class Silent:
    """For use as a library: says nothing."""

    @contextmanager
    def stage(self, name: str) -> Iterator[Bar]:
        yield lambda done, total: None

    def note(self, text: str) -> None:
        """Drops the text."""


class Quiet(Silent):
    """For pipes and logs: remarks, and a line now and then about a stage that takes long."""

    @contextmanager
    def stage(self, name: str) -> Iterator[Bar]:
        lines = _Lines(name)
        with lines:
            yield lines

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class Live(Quiet):
    """For terminals: a spinner that turns into a bar once a stage knows its total."""

    @contextmanager
    def stage(self, name: str) -> Iterator[Bar]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        spinner = SpinnerColumn("dots" if sys.stderr.encoding.lower().startswith("utf") else "line")
        columns = (spinner, TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bars:
            yield _RichBar(bars, bars.add_task(name, total=None))


@dataclass
class _RichBar:
    bars: RichProgress
    task: TaskID

    def __call__(self, done: int, total: int) -> None:
        self.bars.update(self.task, completed=done, total=total)


class _Lines:
    """Says how far a stage is every few seconds, in a thread: some stages report nothing themselves."""

    def __init__(self, name: str) -> None:
        self._name, self._began, self._at = name, time.monotonic(), ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._say, daemon=True)

    def __call__(self, done: int, total: int) -> None:
        self._at = f" {done}/{total}"

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _say(self) -> None:
        while not self._over.wait(EVERY):
            minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
            print(f"{self._name}{self._at}, {minutes}:{seconds:02d}", file=sys.stderr, flush=True)


def reporter() -> Reporter:
    """Live on a terminal, lines elsewhere."""
    return Live() if sys.stderr.isatty() else Quiet()
