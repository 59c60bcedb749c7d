"""What a pipeline reads of a text encoder. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Reads:
    """What goes in and out: `tokens` ids, with a mask of them where `masked`; which hidden state, and the pooled one.

    `hidden` is the last state behind the final norm, or the state in front of the last layer, without that norm.
    """

    tokens: int
    hidden: Literal["last", "penultimate"] | None = "last"
    pooled: bool = False
    masked: bool = False
