"""Blocks of a GPU's memory, taken and given back again and again: the driver's own calls wait for all that runs."""

from __future__ import annotations

import sys
from typing import Any

from dsr_export.backends.cuda.driver import Cuda
from dsr_export.errors import RunnerError

STEP = 512
"""Bytes: blocks have sizes that are multiples of it, and addresses that any kernel takes."""


class Block:
    """Memory at `pointer`, given back when nobody refers to it any more, or before that with `release`."""

    def __init__(self, pool: Pool, pointer: int, nbytes: int) -> None:
        self.pointer, self.nbytes = pointer, nbytes
        self.shared = False
        self._pool: Pool | None = pool

    def share(self) -> None:
        """Others read it on streams of their own: when they let go, it is not used again while they may still work."""
        self.shared = True

    def release(self) -> None:
        """Gives it back, once."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.give(self)

    def __del__(self) -> None:
        if not sys.is_finalizing():  # the process's end gives everything back, and the driver's bindings may be gone
            self.release()


class Pool:
    """All blocks of one device's context. Those that are handed out may outlive it, and the context with them."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda, self._free = cuda, list[Any]()
        self._out, self._closed = 0, False

    def take(self, nbytes: int) -> Block:
        """At least `nbytes`, of any content. Raises RunnerError where the GPU has no such memory left."""
        size = max(STEP, -(-nbytes // STEP) * STEP)
        found = next((each for each in self._free if each[1] == size), None)
        if found is not None:
            self._free.remove(found)
            pointer = found[0]
        else:
            pointer = self._new(size)
        self._out += 1
        return Block(self, pointer, size)

    def give(self, block: Block) -> None:
        """Keeps it for the next one who takes that size; frees it where it was shared, or the pool is closed."""
        self._out -= 1
        if self._closed or block.shared:
            self._drop(block.pointer)
        else:
            self._free.append((block.pointer, block.nbytes))
        self._end()

    def close(self) -> None:
        """Frees what is not handed out, and the rest when it comes back; then the context goes, too."""
        self._closed = True
        self._trim()
        self._end()

    def _new(self, size: int) -> int:
        try:
            return int(self._cuda.call("cuMemAlloc", size))
        except RunnerError:
            if not self._free:
                raise
        self._trim()  # blocks of other sizes may be in its way
        return int(self._cuda.call("cuMemAlloc", size))

    def _trim(self) -> None:
        kept, self._free = self._free, []
        for pointer, _ in kept:
            self._drop(pointer)

    def _drop(self, pointer: int) -> None:
        self._cuda.give_back("cuMemFree", pointer)

    def _end(self) -> None:
        if self._closed and not self._out:
            self._cuda.close()
