"""Dual-Stage Registers as readable PyTorch modules, traced to single nodes of the `dsr` ONNX domain.

What they compute is defined in `dsr_export.register_ops`.

Sources: arXiv 2605.05206 (diffusion registers, recursive replacement), arXiv 2506.08010 (test-time registers).
Shapes: B batch, N tokens, R registers, D channels, H MLP width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from dsr_export.register_ops.neuron_shift import shift_register_neurons
from dsr_export.register_ops.replacement import replace_outliers

Rule = Literal["absolute", "median", "sigma"]
Choice = Literal["nearest", "gate", "mask", "clip"]
NormalValues = Literal["zero", "mean", "only_outliers", "same"]


class DiffusionRegisters(nn.Module):
    """Register rows prepended to a token sequence, and dropped again before the final layer."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.register_tokens = nn.Parameter(torch.randn(1, count, dim))
        self.register_pos_embed = nn.Parameter(torch.zeros(1, count, dim))

    def forward(self, tokens: Tensor) -> Tensor:  # [B, N, D] -> [B, R + N, D]
        return self.prepend(tokens, (self.register_tokens + self.register_pos_embed)[0])

    @staticmethod
    def prepend(tokens: Tensor, registers: Tensor) -> Tensor:
        return torch.cat([registers[None].expand(tokens.shape[0], -1, -1), tokens], dim=1)

    @staticmethod
    def drop(tokens: Tensor, count: int) -> Tensor:
        return tokens[:, count:]


class RecursiveReplacement(nn.Module):
    """Finds high-norm tokens and replaces each by its best-fitting register, again and again, `rounds` times.

    `registers` [R, D] may be given here, or per call (a denoiser passes its own). `choice="gate"` learns which
    mixture of registers to blend in and how strongly; `mask` (zero the token) and `clip` (scale it down to the
    threshold) are the paper's baselines and need no registers. Rows in `exclude` are neither counted nor replaced.
    """

    registers: Tensor | None
    enabled = True
    """Switched off, tokens pass unchanged and nothing is traced: what a comparison with and without needs."""
    source = ""
    """The file that the registers and the gate come from, where one does."""

    def __init__(
        self,
        *,
        rule: Rule,
        threshold: float,
        rounds: int = 1,
        choice: Choice = "nearest",
        exclude: Sequence[int] = (),
        registers: Tensor | None = None,
        gate_shape: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.rule, self.threshold, self.rounds, self.choice = rule, float(threshold), rounds, choice
        self.exclude = list(exclude)
        self.register_buffer("registers", registers, persistent=False)
        if choice == "gate":
            if gate_shape is None:
                raise ValueError("choice='gate' needs gate_shape=(registers, dim)")
            self.choice_weight = nn.Parameter(torch.zeros(gate_shape[1], gate_shape[0]))
            self.gate_weight = nn.Parameter(torch.zeros(gate_shape[1], 1))
            self.gate_bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, registers: Tensor | None = None) -> Tensor:
        if not self.enabled:
            return x
        rows = self.registers if registers is None else registers
        if rows is None:
            if self.choice in ("nearest", "gate"):
                raise ValueError(f"choice={self.choice!r} needs registers")
            rows = x.new_zeros(1, x.shape[-1])  # mask and clip read no register
        gate = (self.choice_weight, self.gate_weight, self.gate_bias) if self.choice == "gate" else (None,) * 3
        y: Tensor = replace_outliers(x, rows, *gate, self.rule, self.threshold, self.rounds, self.choice, self.exclude)
        return y


class TestTimeRegisters(nn.Module):
    """Moves register-neuron activations of an MLP onto appended register rows (arXiv 2506.08010).

    `a` [B, N + R, H] is the activation after the non-linearity. One scalar per image, the signed maximum over all
    tokens and the listed `neurons`, is written to the register rows; the other rows get `normal_values`.
    Row 0 is never touched: the released slice starts at 1 although SigLIP2 has no CLS, and released latents
    were made that way.
    """

    __test__ = False  # the name is the method's, not pytest's
    enabled = True
    """Switched off, activations pass unchanged and nothing is traced."""

    def __init__(
        self,
        neurons: Sequence[int],
        *,
        registers: int = 1,
        scale: float | Sequence[float] = 1.0,
        normal_values: NormalValues = "zero",
    ) -> None:
        super().__init__()
        if not neurons or registers < 1:
            raise ValueError("test-time registers need at least one neuron and one register")
        self.neurons = sorted(set(neurons))  # a duplicate would be an undefined scatter in ONNX
        self.count, self.normal_values = registers, normal_values
        self.scale = [float(scale)] * registers if isinstance(scale, int | float) else [float(s) for s in scale]
        if len(self.scale) != registers:
            raise ValueError(f"{len(self.scale)} scales for {registers} registers")

    def append(self, tokens: Tensor) -> Tensor:  # [B, N, D] -> [B, N + R, D], zero rows, no position
        return torch.cat([tokens, tokens.new_zeros(tokens.shape[0], self.count, tokens.shape[2])], dim=1)

    def drop(self, tokens: Tensor) -> Tensor:
        return tokens[:, : -self.count]

    def forward(self, a: Tensor) -> Tensor:
        if not self.enabled:
            return a
        shifted: Tensor = shift_register_neurons(a, self.neurons, self.count, self.scale, self.normal_values)
        return shifted
