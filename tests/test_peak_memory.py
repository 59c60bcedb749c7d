"""What a block of code holds at most, beside what the process held before."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest

from dsr_export.peak_memory import EVERY, PeakMemory, peak_rss_bytes

MANY = 200 << 20


def _hold(count: int) -> None:
    values = np.ones(count, np.uint8)
    time.sleep(4 * EVERY)
    assert values[-1] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the resident size of now is read from /proc")
def test_each_block_has_its_own_peak() -> None:
    with PeakMemory() as now:
        pass
    assert now.bytes is not None
    with PeakMemory() as large:
        _hold(peak_rss_bytes() - now.bytes + 2 * MANY)  # more than the process ever held
    with PeakMemory() as small:
        _hold(MANY)
    assert large.bytes == peak_rss_bytes()
    assert small.bytes is not None and MANY < small.bytes < large.bytes - MANY // 2


def test_a_block_that_fails_has_one_too() -> None:
    memory = PeakMemory()
    with pytest.raises(KeyError), memory:
        raise KeyError
    assert memory.bytes is None or memory.bytes > 1 << 20
