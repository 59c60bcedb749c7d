"""`DsrSpec`: what is done to a model's tokens. Read from a family's config or `--dsr FILE`, kept in the manifest."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class ReplaceSpec:
    """One group of replacement sites: outliers in the output tokens of each of `layers` are replaced."""

    layers: tuple[int, ...]
    rule: Literal["absolute", "median", "sigma"]
    threshold: float
    rounds: int = 1
    choice: Literal["nearest", "gate", "mask", "clip"] = "nearest"
    registers: str = "diffusion"  # the model's own, or a .safetensors file


@dataclass(frozen=True, kw_only=True)
class DenoiserSpec:
    """Registers of a denoiser: `registers` rows prepended before block `start`, and run-time replacement."""

    kind: Literal["diffusion", "none"] = "none"
    registers: int = 0
    start: int = 0
    replace: tuple[ReplaceSpec, ...] = ()

    @property
    def replacement_sites(self) -> int:
        return sum(len(group.layers) for group in self.replace)


@dataclass(frozen=True, kw_only=True)
class DsrSpec:
    """Everything declared about a model's registers; the lowering must find exactly these sites."""

    denoiser: DenoiserSpec = field(default_factory=DenoiserSpec)

    def sites(self) -> dict[str, int]:
        """Symbolic op type -> number of nodes the traced graph must hold."""
        return {"ReplaceOutliers": self.denoiser.replacement_sites, "ShiftRegisterNeurons": 0}

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
