"""The rewrites, one per file. `LOWERINGS` and its order are the only order there is."""

from __future__ import annotations

from graphs.rewrite import Rewrite
from graphs.rewrites.lower_replace_outliers import LowerReplaceOutliers
from graphs.rewrites.lower_shift_register_neurons import LowerShiftRegisterNeurons

LOWERINGS: tuple[tuple[str, Rewrite], ...] = (
    # Symbolic op type -> its lowering. Neuron shifts first: replacement may read what they write.
    ("ShiftRegisterNeurons", LowerShiftRegisterNeurons()),
    ("ReplaceOutliers", LowerReplaceOutliers()),
)
