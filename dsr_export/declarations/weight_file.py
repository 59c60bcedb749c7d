"""A checkpoint that is asked for, and which of the weights in it. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

EMA, MODEL = "ema", "model"


@dataclass(frozen=True)
class WeightFile:
    """`entry` chooses among the weights that a file holds: `ema`, `model`, or the name of one; None for the rule.

    The rule: averaged weights where there are some, else the model's own; several of a kind are an error.
    """

    path: Path
    entry: str | None = None
