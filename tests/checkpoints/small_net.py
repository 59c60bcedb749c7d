"""A small module with what checkpoints have to carry: nested blocks, norm statistics, integers, a tied weight."""

from __future__ import annotations

import torch
from torch import Tensor, nn

State = dict[str, Tensor]


class SmallNet(nn.Module):
    """Float weights and buffers, `ids` int64, and `tail.weight`, which is `head.weight` where `tied`."""

    def __init__(self, *, tied: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)) for _ in range(2))
        self.head, self.tail = nn.Linear(4, 6), nn.Linear(4, 6)
        self.register_buffer("ids", torch.arange(3))
        if tied:
            self.tail.weight = self.head.weight

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x) + self.tail(x)  # type: ignore[no-any-return]


def small_state(seed: int, *, tied: bool = False) -> State:
    """Weights of a `SmallNet`, drawn from the seed; values that half precision keeps."""
    generator = torch.Generator().manual_seed(seed)
    state = SmallNet(tied=tied).state_dict()
    made = {
        name: torch.randint(-64, 64, value.shape, generator=generator) / 32 if value.is_floating_point() else value
        for name, value in state.items()
    }
    return {**made, "tail.weight": made["head.weight"]} if tied else made


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def parameters_of(state: State) -> State:
    """Only what is trained, in the module's order."""
    return {name: state[name] for name, _ in SmallNet().named_parameters()}
