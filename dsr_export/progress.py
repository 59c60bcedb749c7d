"""Progress on stderr: stage and elapsed time, a bar where the total is known, a spinner where not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

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
    """For pipes and logs: remarks, but no moving parts."""

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class Live(Quiet):
    """For terminals: a spinner that turns into a bar once a stage knows its total."""

    @contextmanager
    def stage(self, name: str) -> Iterator[Bar]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bars:
            yield _RichBar(bars, bars.add_task(name, total=None))


@dataclass
class _RichBar:
    bars: RichProgress
    task: TaskID

    def __call__(self, done: int, total: int) -> None:
        self.bars.update(self.task, completed=done, total=total)


def reporter() -> Reporter:
    """Live on a terminal, quiet elsewhere."""
    return Live() if sys.stderr.isatty() else Quiet()
