"""The first bytes of an engine plan, read without TensorRT: whether it is one at all, and which version made it.

The layout, read off plans of TensorRT-RTX 1.7: a tag of four letters at 0, the size of the whole plan at 16 (unsigned,
8 bytes), and the version at 24, one byte each for major, minor, patch and build. TensorRT's own guide gives the same
place for the version of its plans. No source says how these begin, and no such plan was at hand: of theirs the version
alone is checked, and a tag that is not among `_SEEN` is said to be not recognised.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

from dsr_export.engine_schedule.plan_text import RTX_TAG

LENGTH = 28
_SEEN = (b"ftrt", b"ptrt")  # of TensorRT, by hearsay
_BACKENDS = ("tensorrt", "tensorrt_rtx")


def plan_problem(plan: Path, backend: str, version: str) -> str | None:
    """Why the file at `plan` is no plan that `backend` made in `version`; None where its first bytes fit.

    Only these are read: what they say can be right of a plan that does not load. OSError where they cannot be read.
    """
    head = _head(plan)
    if backend not in _BACKENDS or len(head) < LENGTH or (head[:4] == RTX_TAG) != (backend == "tensorrt_rtx"):
        return f"begins with {head[:4]!r}, no plan of {backend}"
    (size,) = struct.unpack_from("<Q", head, 16)
    if backend == "tensorrt_rtx" and size != plan.stat().st_size:
        return f"has {plan.stat().st_size} bytes, and its header says {size}"
    found = [*head[24:LENGTH]]
    said = [int(number) for number in re.findall(r"[0-9]{1,9}", version)][:4]
    if said != found[: len(said)] or not said:
        return f"was made by version {'.'.join(map(str, found))}, and the manifest says {version[:40]}"
    return None


def is_recognised(plan: Path, backend: str) -> bool:
    """Whether the file begins as plans of `backend` are known to."""
    return _head(plan)[:4] in (_SEEN if backend == "tensorrt" else (RTX_TAG,))


def _head(plan: Path) -> bytes:
    with plan.open("rb") as stream:
        return stream.read(LENGTH)
