"""The rewrites, one per file. `LOWERINGS`, then `OPTIMIZATIONS`: this is the only order there is."""

from __future__ import annotations

from graphs.rewrite import Rewrite
from graphs.rewrites.divide_by_root import DivideByRoot
from graphs.rewrites.drop_ones import DropOnes
from graphs.rewrites.fold_register_neurons import FoldRegisterNeurons
from graphs.rewrites.fold_reshape_shape import FoldReshapeShape
from graphs.rewrites.fuse_layer_norm import FuseLayerNorm
from graphs.rewrites.gather_scattered_sums import GatherScatteredSums
from graphs.rewrites.hoist_unsqueeze import HoistUnsqueeze
from graphs.rewrites.lower_replace_outliers import LowerReplaceOutliers
from graphs.rewrites.lower_shift_register_neurons import LowerShiftRegisterNeurons
from graphs.rewrites.scale_queries import ScaleQueries
from graphs.rewrites.spell_out_bool_where import SpellOutBoolWhere
from graphs.rewrites.swap_pairs import SwapPairs
from graphs.rewrites.transpose_keys import TransposeKeys

LOWERINGS: tuple[tuple[str, tuple[Rewrite, ...]], ...] = (
    # Symbolic op type -> its lowerings; each node takes the first that matches it.
    # Neuron shifts first: replacement may read what they write. Folding before masks: it copies no [B, N, H] tensor.
    ("ShiftRegisterNeurons", (FoldRegisterNeurons(), LowerShiftRegisterNeurons())),
    ("ReplaceOutliers", (LowerReplaceOutliers(),)),
)

OPTIMIZATIONS: tuple[Rewrite, ...] = (
    # Each runs over the whole lowered graph, once constants are folded; that none matches is no error.
    DivideByRoot(),
    FuseLayerNorm(),  # behind it: ONNX Runtime's own fusion takes a Div for a norm, and mixes its types
    FoldReshapeShape(),  # in front of what drops or copies a Reshape: its shape is a constant by then
    TransposeKeys(),
    ScaleQueries(),
    SwapPairs(),
    HoistUnsqueeze(),
    SpellOutBoolWhere(),
    GatherScatteredSums(),
    DropOnes(),
)
