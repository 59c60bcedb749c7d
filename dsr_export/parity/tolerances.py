"""Tolerances per precision. A comparison has no default: every one names its tolerance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from graphs.precisions import Precision

IDENTICAL_DB = 300.0  # stands for an error of zero, which has no logarithm


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Bounds that all have to hold. `max_abs` is relative to max(1, range of the reference), None for unbounded."""

    max_abs: float | None
    cosine: float
    psnr_db: float
    snr_db: float
    reason: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Tolerance:
        return cls(**values)


TOLERANCES: Mapping[Precision, Tolerance] = {
    "fp32": Tolerance(max_abs=1e-4, cosine=0.99999, psnr_db=80.0, snr_db=60.0, reason="reassociation only"),
    "fp16": Tolerance(
        max_abs=None, cosine=0.9995, psnr_db=45.0, snr_db=40.0, reason="11-bit mantissa through depth 28"
    ),
    # Three mantissa bits fewer than FP16, at 6 dB each.
    "bf16": Tolerance(max_abs=None, cosine=0.995, psnr_db=27.0, snr_db=22.0, reason="8-bit mantissa through depth 28"),
    "int8": Tolerance(max_abs=None, cosine=0.995, psnr_db=30.0, snr_db=20.0, reason="W8A8 per tensor"),
    # A build aims at 26 dB; one token that is replaced on one side alone, as it may at a threshold, takes 15 of 39.
    "fp8": Tolerance(max_abs=None, cosine=0.995, psnr_db=30.0, snr_db=20.0, reason="4 significant bits, W8A8"),
    "int4": Tolerance(max_abs=None, cosine=0.97, psnr_db=20.0, snr_db=12.0, reason="15 levels of a weight in a block"),
    "nvfp4-weights": Tolerance(
        max_abs=None, cosine=0.97, psnr_db=20.0, snr_db=12.0, reason="2 significant bits of a weight"
    ),
    "nvfp4": Tolerance(max_abs=None, cosine=0.95, psnr_db=18.0, snr_db=10.0, reason="2 significant bits, W4A4"),
}
