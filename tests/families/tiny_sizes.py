"""Sizes of a denoiser that every family of them can be built with in no time."""

from __future__ import annotations

from typing import Any

SIZES: dict[str, Any] = {
    "input_size": 4,
    "patch_size": 2,
    "in_channels": 3,
    "hidden_size": 32,
    "depth": 3,
    "num_heads": 4,
    "num_classes": 5,
}
REQUIRED = {name: SIZES[name] for name in ("hidden_size", "depth", "num_heads", "num_classes", "patch_size")}
"""What cannot be read off a checkpoint of a family whose models differ in their patches."""
