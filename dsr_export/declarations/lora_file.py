"""A LoRA adapter that is merged into a model: `FILE`, or `FILE:SCALE`. Needs no torch."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from dsr_export.errors import ExportError

_SCALED = re.compile(r"(.+):([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)", re.DOTALL)
LARGEST = 1000.0


@dataclass(frozen=True)
class LoraFile:
    """`scale` times what the file adds is added."""

    path: Path
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale) or self.scale == 0 or abs(self.scale) > LARGEST:
            raise ExportError(
                f"the scale {self.scale:g} of {self.path} is none", hint=f"give up to {LARGEST:g}, and not 0"
            )

    def __str__(self) -> str:
        """As one types it, and as `parse` reads it."""
        plain = self.scale == 1.0 and _SCALED.fullmatch(str(self.path)) is None
        return str(self.path) if plain else f"{self.path}:{self.scale!r}"

    @classmethod
    def parse(cls, text: str) -> LoraFile:
        """`FILE:0.8`; a file whose own name ends so is one without a scale."""
        scaled = _SCALED.fullmatch(text)
        if scaled is None or Path(text).exists():
            return cls(Path(text))
        return cls(Path(scaled[1]), float(scaled[2]))
