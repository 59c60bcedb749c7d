"""What gives an engine fewer kernels and fewer bytes: rewrites of a typed graph, in the order in which they run.

Each keeps the numbers to rounding and every decision bit for bit. How a graph runs in an engine is read from the plan
that TensorRT-RTX builds of it; none of these makes ONNX Runtime faster.
"""

from __future__ import annotations

from graphs.rewrite import Rewrite
from graphs.rewrites.engine.count_below import CountBelow
from graphs.rewrites.engine.part_gates import PartGates
from graphs.rewrites.engine.project_tokens_first import ProjectTokensFirst
from graphs.rewrites.engine.replace_narrow import ReplaceNarrow
from graphs.rewrites.engine.rotate_together import RotateTogether
from graphs.rewrites.engine.sum_similarities import SumSimilarities

ENGINE_REWRITES: tuple[Rewrite, ...] = (
    RotateTogether(),
    PartGates(),
    ProjectTokensFirst(),
    CountBelow(),
    SumSimilarities(),
    ReplaceNarrow(),
)
