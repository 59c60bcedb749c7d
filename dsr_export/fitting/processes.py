"""Several processes that train together, each on a device of its own: `accelerate launch ... fit ...` starts them.

All draw the same rows, and each computes its share of them; slopes are averaged, so that all hold the same registers.
The first one leads: it keeps the state, and writes the results.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from dsr_export.errors import ExportError

_LAUNCHED = ("WORLD_SIZE", "RANK", "MASTER_ADDR")  # set by accelerate's launcher, as by torchrun
Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Of `count`, this is number `rank`, and works on `device` (torch's word). One alone is the default."""

    device: str = "cpu"
    rank: int = 0
    count: int = 1
    reduced: Callable[[Tensor], Tensor] = lambda value: value
    shared: Callable[[list[Any]], Any] = lambda values: values[0]

    @property
    def leads(self) -> bool:
        """Whether this one writes."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """Those of `rows` that are computed here. ExportError where they do not come out even."""
        if rows % self.count:
            raise ExportError(
                f"--batch {rows} cannot be shared by {self.count} processes",
                hint=f"give a multiple: --batch {-(-rows // self.count) * self.count}",
            )
        each = rows // self.count
        return slice(self.rank * each, (self.rank + 1) * each)

    def mean(self, value: Tensor) -> Tensor:
        """Of every process's `value`, which has the same shape everywhere."""
        with _ended_peers():
            return self.reduced(value)

    def means(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Of every process's `values`."""
        return [self.mean(value) for value in values]

    def told(self, value: Any) -> Any:
        """What the leading process has for `value`: any object; the others' are passed over."""
        with _ended_peers():
            return self.shared([value])

    def in_turn(self, work: Callable[[], Made]) -> Made:
        """What `work` comes to, which the leading process does first: the others find it in the cache they share."""
        if not self.leads:
            self.told(None)
        made = work()
        if self.leads:
            self.told(None)
        return made


@contextmanager
def _ended_peers() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch's, whose text is that of a socket
        raise ExportError(
            "another process of this training ended, or cannot be reached",
            hint="its own message says why; the same command goes on where this one was",
        ) from error


@contextmanager
def launched(device: str) -> Iterator[Processes]:
    """Those that a launcher started, or one alone.

    Raises ExportError where `accelerate` is missing.
    """
    if not _is_launched():
        yield Processes(device=device)
        return
    try:
        from accelerate import PartialState
        from accelerate.utils import broadcast_object_list, reduce
    except ImportError as error:
        raise ExportError(
            "several processes train together through the package 'accelerate', which is missing",
            hint="pip install 'dsr-export[fit]', or start one process",
        ) from error
    state = PartialState(cpu=device == "cpu")
    try:
        yield Processes(
            device=str(state.device),
            rank=state.process_index,
            count=state.num_processes,
            reduced=lambda value: reduce(value, "mean"),
            shared=lambda values: broadcast_object_list(values)[0],
        )
    finally:
        state.destroy_process_group()


def _is_launched() -> bool:
    """Some schedulers say how many processes there are without starting any of them together."""
    count, *rest = (os.environ.get(name) for name in _LAUNCHED)
    return all(rest) and count is not None and count.isdecimal() and int(count) > 1
