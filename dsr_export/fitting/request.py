"""What `fit` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from dsr_export.errors import ExportError
from dsr_export.fitting.data import SELF
from dsr_export.limits import MOST_SEED

MOST_FIT_STEPS, MOST_FIT_BATCH = 10_000_000, 65_536


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """`data` is a file or folder of npz, or `self`; `licence` is what the user says of it, for the card.

    `norm_weight` weighs the term on token norms before the sites. `rate` is the largest learning rate. `device` is
    torch's word for where the steps run.
    """

    dsr: Path
    out: Path
    data: str = SELF
    steps: int = 1000
    batch: int = 32
    rate: float = 1e-2
    seed: int = 0
    norm_weight: float = 0.0
    device: str = "cpu"
    licence: str | None = None
    force: bool = False

    def __post_init__(self) -> None:
        for name, value, most in (("steps", self.steps, MOST_FIT_STEPS), ("batch", self.batch, MOST_FIT_BATCH)):
            if not 1 <= value <= most:
                raise ExportError(f"--{name} {value} is not in 1 to {most}")
        if not 0 < self.rate <= 10:
            raise ExportError(f"--rate {self.rate} is no learning rate", hint="give a number above 0, up to 10")
        if not 0 <= self.norm_weight <= 1e6:
            raise ExportError(f"--norm-weight {self.norm_weight} is no weight", hint="give a number from 0")
        if self.device != "cpu" and not (self.device.startswith("cuda") and torch.cuda.is_available()):
            raise ExportError(f"there is no device '{self.device}' here", hint="give --device cpu")
        if not 0 <= self.seed <= MOST_SEED:
            raise ExportError(f"--seed {self.seed} is no seed", hint=f"give 0 to {MOST_SEED}")
