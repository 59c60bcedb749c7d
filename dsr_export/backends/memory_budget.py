"""A bound on the memory that loading or running a model takes: a file of 1 kB can ask for terabytes, by arithmetic that
nobody can follow before it runs.

The limit is the process's own (`RLIMIT_DATA`), so it is set in a process that runs one command and ends, and on Linux,
which counts all memory that is written to. Elsewhere models are bounded by what can be told of their shapes alone.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dsr_export.errors import ExportError
from dsr_export.out_of_memory import is_out_of_memory

if TYPE_CHECKING:
    from dsr_export.backends.base import Array

Made = TypeVar("Made")

LEAST_SPARE, MOST_SPARE = 3 << 28, 8 << 30
"""Bytes that any model may take, whatever it holds: a quarter of the machine's memory within these.

Small ones too attend over 4,096 tokens, several rows at once, and are probed at each of their tensors.
"""
PER_STORED_BYTE = 256
"""Bytes a row may take for each byte that is stored: 64 numbers per FP32 weight. A decoder of 50 M weights, which has
the largest tensors for its size, takes 15 at 1,024 pixels."""
PER_FED_BYTE = 4
_PER_CORE = 16 << 20  # the stack of a thread, and its share of malloc's tables
_switched_on: list[bool] = [False]


def bound_memory() -> None:
    """From now on `within` holds what it runs to its budget. For a process of our own: the limit is no thread's."""
    _switched_on[0] = sys.platform.startswith("linux")


def stored_bytes(files: Iterable[Path]) -> int:
    """The sizes of those files that are there, together."""
    return sum(each.stat().st_size for each in files if each.is_file())


def budget(stored: int, fed: Sequence[Array] = ()) -> int:
    """Bytes for a model of `stored` bytes that is run on the arrays `fed`, batch first."""
    rows = max((len(each) for each in fed if each.ndim), default=1)
    inputs = sum(each.nbytes for each in fed)
    cores = _PER_CORE * (os.cpu_count() or 1)
    return spare() + PER_STORED_BYTE * stored * max(1, rows) + PER_FED_BYTE * inputs + cores


def spare() -> int:
    """A quarter of the machine's memory, within bounds."""
    pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    whole = pages * os.sysconf("SC_PAGE_SIZE") if pages > 0 else 0
    return min(MOST_SPARE, max(LEAST_SPARE, whole // 4))


def within(most: int, call: Callable[[], Made]) -> Made:
    """What `call` returns, which may take `most` bytes more than the process has.

    Raises:
        ExportError: it asked for more. What else `call` raises is passed on, and so is that the machine's own memory
            ran out.
    """
    with _limit(most) as limited:
        try:
            return call()
        except Exception as error:
            if not (limited and is_out_of_memory(error)):
                raise
            where = _node(str(error))
    # Outside of the handler: the error has no cause that would be called a lack of memory.
    raise ExportError(
        f"the model asks for more than the {most / 2**30:.1f} GB of memory that its size allows for{where}",
        hint="do not use this model if it came from someone else; else use a smaller --batch, or smaller fixed shapes",
    )


def _node(text: str) -> str:
    """At which node, in our words, where ONNX Runtime says so."""
    found = re.search(r"running (\w+) node\. Name:'([^']*)'", text)
    return f", in {found[1]} (node '{found[2]}')" if found else ""


@contextmanager
def _limit(most: int) -> Iterator[bool]:
    """Yields whether this is what the block would meet first, and no limit of the user's."""
    if not _switched_on[0]:
        yield False
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    total, data = _taken()
    wanted = data + most
    if any(each != resource.RLIM_INFINITY and each < wanted for each in (soft, hard)):
        yield False
        return
    whole = resource.getrlimit(resource.RLIMIT_AS)[0]
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
    try:
        yield whole == resource.RLIM_INFINITY or total + most < whole
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _taken() -> tuple[int, int]:
    """Bytes of all this process has mapped, and of its data."""
    words = Path("/proc/self/statm").read_text(encoding="utf-8").split()
    return int(words[0]) * os.sysconf("SC_PAGE_SIZE"), int(words[5]) * os.sysconf("SC_PAGE_SIZE")
