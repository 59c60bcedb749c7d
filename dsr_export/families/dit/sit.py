"""The `sit` family: DiT's network as an interpolant transformer (arXiv 2401.08740)."""

from __future__ import annotations

from torch import Tensor

from dsr_export.families.dit.network import Dit


class Sit(Dit):
    """`forward(x [N, C, H, W], t [N], y [N] int64) -> out`, as `x`: the velocity dx/dt. `t` is 0 for noise, 1 for data.

    Released weights have `learn_sigma`: the network computes twice the channels, and drops the second half.
    """

    FAMILY = "sit"

    @property
    def out_channels(self) -> int:
        """Channels of `out`."""
        return self.config.in_channels

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return super().forward(x, t, y)[:, : self.config.in_channels]
