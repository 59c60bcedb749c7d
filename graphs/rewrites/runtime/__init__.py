"""What ONNX Runtime's own kernels run faster: rewrites of a typed graph, in the order in which they run.

Their operators are ONNX Runtime's own where those were measured to win: this form runs nowhere else. Each has kernels
for FP32 on the CPU, and for FP32 and FP16 on a GPU. No rewrite changes a weight, so that the graph shares those of the
portable one.
"""

from __future__ import annotations

from graphs.rewrite import Rewrite
from graphs.rewrites.runtime.attend_at_once import AttendAtOnce
from graphs.rewrites.runtime.cast_first import CastFirst
from graphs.rewrites.runtime.part_before_heads import PartBeforeHeads
from graphs.rewrites.runtime.part_products import PartProducts
from graphs.rewrites.runtime.rotate_at_once import RotateAtOnce

RUNTIME_REWRITES: tuple[Rewrite, ...] = (
    CastFirst(),
    PartBeforeHeads(),
    RotateAtOnce(),  # in front of attention, which then takes rows as they leave the rotation
    AttendAtOnce(),
    PartProducts(),
)
RUNTIME_GAINS = ("rotate_at_once", "attend_at_once", "part_products")
"""Those that were measured to win: where none of them matches, what the others prepare is not worth a graph."""
