"""What the C library keeps of freed memory, and how it gives it back. Only glibc needs to be told."""

from __future__ import annotations

import contextlib
import ctypes
import sys

_M_MMAP_THRESHOLD = -3  # malloc.h
OWN_PAGES_FROM = 1 << 20  # bytes; the weights of large models, not what they are described with


def trim() -> None:
    """Returns free memory to the system; glibc keeps freed weights for itself otherwise."""
    _glibc("malloc_trim", 0)


def release_large_blocks() -> None:
    """From now on a block of `OWN_PAGES_FROM` bytes or more goes back to the system when it is freed.

    glibc raises that limit to 32 MiB as soon as it sees such a block freed, in favour of speed. Weights then share one
    heap with small blocks that outlive them, and their pages stay: 1.2 GB in the engine build of a model of 2.7 GB.
    """
    _glibc("mallopt", _M_MMAP_THRESHOLD, OWN_PAGES_FROM)


def _glibc(function: str, *arguments: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            getattr(ctypes.CDLL(None), function)(*arguments)
