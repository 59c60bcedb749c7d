"""Ops that move data and never compute."""

from __future__ import annotations

MOVERS = frozenset(
    [
        "Reshape",
        "Transpose",
        "Slice",
        "Split",
        "Squeeze",
        "Unsqueeze",
        "Identity",
        "Expand",
        "Gather",
        "Flatten",
        "Tile",
        "Pad",
        "GatherElements",
        "Shape",
    ]
)
"""Ops that only move data, or look at its shape: they keep the type they are given."""
