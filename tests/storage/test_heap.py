"""Freed memory goes back to the system, in a process whose allocator has learned to keep it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

MEASURE = """
import ctypes, sys
from dsr_export.storage import heap

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) >> 10

def filled(size):
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    return block

libc.free(filled(31 << 20))  # what teaches it: a large block that is freed
if "told" in sys.argv:
    heap.release_large_blocks()
before = resident()
blocks = [(filled(4 << 20), filled(64 << 10)) for _ in range(32)]  # 128 MiB, small blocks between
for large, _ in blocks:
    libc.free(large)
kept = resident() - before
heap.trim()
print(kept, resident() - before)
"""


def _kept(*arguments: str) -> list[int]:
    """MiB that stay resident once 128 are freed, and after a trim."""
    run = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True)
    return [int(word) for word in run.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps what is freed")
def test_freed_blocks_leave_the_process() -> None:
    untold, trimmed = _kept()
    assert untold > 100 and trimmed < 8
    assert max(_kept("told")) < 8
