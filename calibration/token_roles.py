"""Token roles: which rows of an activation are registers, outliers and ordinary patches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Role = Literal["patch", "register", "outlier"]
ROLES: tuple[Role, ...] = ("patch", "register", "outlier")
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


def token_roles(x: Array, registers: Array) -> dict[Role, Array]:
    """Masks [B, N] for activations x [B, N, K]; `registers` [N] are known, outliers are found.

    An outlier's largest magnitude exceeds `OUTLIER_FACTOR` times the median over the image's other tokens: that is
    what costs a per-tensor scale its resolution, whatever the token's norm.
    """
    largest = np.abs(x).max(axis=2)  # [B, N]
    others = ~registers
    middle = np.median(largest[:, others], axis=1, keepdims=True) if others.any() else np.inf
    outlier = others & (largest > OUTLIER_FACTOR * middle)
    return {"patch": others & ~outlier, "register": np.broadcast_to(registers, largest.shape), "outlier": outlier}
