"""How much memory this process holds: at most so far, and at most within a block of code."""

from __future__ import annotations

import os
import resource
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

EVERY = 0.05  # seconds between two looks
_STATM = Path("/proc/self/statm")


def peak_rss_bytes() -> int:
    """Largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class PeakMemory:
    """`bytes` is the largest resident size of the process within the block, once that is over.

    What exceeds all before it is told by the system. Anything less is looked at every `EVERY` seconds, since nothing
    tells it: a short peak below an earlier one may be missed. None where the system does not say what is held now.
    """

    bytes: int | None = None

    def __enter__(self) -> Self:
        self._before, self._seen, self._over = peak_rss_bytes(), _held(), threading.Event()
        self._thread = None if self._seen is None else threading.Thread(target=self._look, daemon=True)
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        after = peak_rss_bytes()
        self.bytes = after if after > self._before else self._seen

    def _look(self) -> None:
        last = False
        while not last:
            last = self._over.wait(EVERY)
            self._seen = max(self._seen or 0, _held() or 0)


def _held() -> int | None:
    """The resident size now."""
    try:
        pages = int(_STATM.read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
