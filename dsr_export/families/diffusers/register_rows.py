"""The registers that a diffusers transformer is asked to take: from a file, or drawn beside random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsr_export.errors import ExportError
from dsr_export.families.inserted_registers import read_registers
from dsr_export.families.schema import default_register_start

REGISTER_OPTIONS = ("register_start", "register_file")
REGISTER_HINT = (
    'declare them with --dsr FILE: a table [denoiser] with kind = "diffusion" and register_file = "r.safetensors", '
    "which holds a tensor 'registers' [R, D]; in Python, give register_file"
)


@dataclass(frozen=True, kw_only=True)
class AskedRegisters:
    """`options` may have `register_file` (.safetensors, `registers` [R, D]) and `register_start`, a block's number.

    `count` is their number, or with random weights (of the seed `seed`) how many are drawn.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    count: int | None = None
    seed: int | None = None

    @property
    def any(self) -> bool:
        """Whether registers are asked for, or something about them."""
        return bool(self.count) or any(option in self.options for option in REGISTER_OPTIONS)

    def rows(self, dim: int) -> Tensor | None:
        """The registers to insert, [R, D] float32; None for none. Raises ExportError for what does not fit."""
        if "register_file" in self.options:
            return self._from_file(Path(str(self.options["register_file"])), dim)
        if not self.count:
            return None
        if self.seed is None:
            raise ExportError(
                f"{self.name} has no registers of its own, and nothing says what the {self.count} asked for hold",
                hint=REGISTER_HINT,
            )
        return torch.randn(self.count, dim, generator=torch.Generator().manual_seed(self.seed))

    def _from_file(self, file: Path, dim: int) -> Tensor:
        rows = read_registers(file, dim)
        if self.count not in (None, len(rows)):
            raise ExportError(f"--registers {self.count}, but {file} holds {len(rows)}")
        return rows

    def start(self, depth: int, rows: Tensor | None) -> int:
        """The block that they come before, of `depth`; without an option, what suits the depth."""
        if rows is None and "register_start" in self.options:
            raise ExportError(f"{self.name}: register_start is given, but no registers are", hint=REGISTER_HINT)
        start = self.options.get("register_start", default_register_start(depth))
        if type(start) is not int or not 0 <= start < depth:
            raise ExportError(f"register_start {start} is outside [0, {depth}), the blocks of this model")
        return start
