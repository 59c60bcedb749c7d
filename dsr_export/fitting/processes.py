"""Several processes that train together, each on a device of its own: `accelerate launch ... fit ...` starts them.

All draw the same rows, and each computes its share of them; slopes are averaged, so that all hold the same registers.
The first one leads: it keeps the state, and writes the results.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dsr_export.errors import ExportError

_WORLD = "WORLD_SIZE"  # set by accelerate's launcher, as by torchrun


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

    def means(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Of every process's `values`, which have the same shapes everywhere."""
        return [self.reduced(value) for value in values]

    def told(self, value: Any) -> Any:
        """What the leading process has for `value`: any object; the others' are passed over."""
        return self.shared([value])


@contextmanager
def launched(device: str) -> Iterator[Processes]:
    """Those that a launcher started, or one alone.

    Raises ExportError where `accelerate` is missing.
    """
    if int(os.environ.get(_WORLD, "1")) < 2:
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
