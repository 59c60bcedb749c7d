"""Tells errors that mean a lack of memory from others: many libraries say so in words only."""

from __future__ import annotations

import errno
import re

from dsr_export.errors import ExportError

_SAID = re.compile(
    r"bad_alloc|bad allocation|out of memory|(can't|cannot|failed to|unable to) allocate|not enough memory"
    r"|failed to map segment|can't start new thread",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Not for a message of our own: it may quote a user's."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    named = isinstance(error, (ImportError, RuntimeError)) or type(error).__module__.startswith("onnxruntime")
    return named and not isinstance(error, ExportError) and _SAID.search(str(error)) is not None
