"""The rewrites, one per file. `LOWERINGS` and `OPTIMIZATIONS` and their order are the only order there is."""

from __future__ import annotations

from graphs.rewrite import Rewrite
from graphs.rewrites.fold_register_neurons import FoldRegisterNeurons
from graphs.rewrites.fuse_layer_norm import FuseLayerNorm
from graphs.rewrites.lower_replace_outliers import LowerReplaceOutliers
from graphs.rewrites.lower_shift_register_neurons import LowerShiftRegisterNeurons

LOWERINGS: tuple[tuple[str, tuple[Rewrite, ...]], ...] = (
    # Symbolic op type -> its lowerings; each node takes the first that matches it.
    # Neuron shifts first: replacement may read what they write. Folding before masks: it copies no [B, N, H] tensor.
    ("ShiftRegisterNeurons", (FoldRegisterNeurons(), LowerShiftRegisterNeurons())),
    ("ReplaceOutliers", (LowerReplaceOutliers(),)),
)

OPTIMIZATIONS: tuple[Rewrite, ...] = (FuseLayerNorm(),)
"""Run once constants are folded: axes, exponents and epsilons are then values, not nodes."""
