"""Token roles: which rows of an activation are registers, outliers and ordinary patches, and which sinks by place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from calibration.places import CORNER, FIRST_FRAME, OTHER, PADDING

Array = npt.NDArray[Any]
Role = Literal["patch", "register", "outlier", "corner", "first frame", "padding"]
ROLES: tuple[Role, ...] = ("patch", "register", "outlier", "corner", "first frame", "padding")
_BY_PLACE: Mapping[Role, int] = {"corner": CORNER, "first frame": FIRST_FRAME, "padding": PADDING}
OUTLIER_FACTOR = 4.0  # times the image's median, as the detection rule's usual threshold


@dataclass(frozen=True, kw_only=True)
class RegisterRows:
    """Where a model keeps its registers: `count` rows, at the `end` ("first" or "last") of sequences that hold them.

    `patches` is the number of tokens without them, by which a sequence with registers is told. `rows` says where they
    start in sequences that hold other tokens in front of them, by the sequence's length.
    """

    count: int = 0
    patches: int = 0
    end: Literal["first", "last"] = "first"
    rows: Mapping[int, int] = field(default_factory=dict)

    def mask(self, tokens: int) -> Array:
        """Which of `tokens` rows are registers, [tokens] bool; none in a sequence of another length."""
        rows = np.zeros(tokens, bool)
        if tokens in self.rows:
            rows[self.rows[tokens] :][: self.count] = True
            return rows
        if self.count and tokens >= self.patches + self.count:
            rows[: self.count] = True
        return rows if self.end == "first" else rows[::-1]


def token_roles(x: Array, registers: Array, places: Array | None = None) -> dict[Role, Array]:
    """Masks [B, N] for activations x [B, N, K]; `registers` [N] are known, outliers are found.

    `places` [B, N] or [N] says of tokens that are known by their place (corners, first frames, padding) which they are.
    An outlier's largest magnitude exceeds `OUTLIER_FACTOR` times the median over the image's other tokens: that is
    what costs a per-tensor scale its resolution, whatever the token's norm.
    """
    largest = np.abs(x).max(axis=2)  # [B, N]
    shape, others = largest.shape, ~registers
    middle = np.median(largest[:, others], axis=1, keepdims=True) if others.any() else np.inf
    placed = np.broadcast_to(np.int64(OTHER) if places is None else places, shape)
    known: dict[Role, Array] = {role: others & (placed == place) for role, place in _BY_PLACE.items()}
    left = others & (placed == OTHER)
    outlier = left & (largest > OUTLIER_FACTOR * middle)
    return {"patch": left & ~outlier, "register": np.broadcast_to(registers, shape), "outlier": outlier, **known}
