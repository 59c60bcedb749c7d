"""What a random module is made of: blocks over tokens [B, N, D], each with the parameters that it may be drawn with."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

DIM, TOKENS, CLASSES, HEADS = 16, 6, 10, 2  # 16: narrower layers do not become INT8
EPS = (1e-4, 1e-5, 1e-6, 1e-8, 1e-10, 1e-12, 1e-15)


@dataclass(frozen=True)
class Extras:
    """The inputs beside the tokens; those that no block needs are None.

    `keep` [B, N] bool: which tokens count. `weight` [B, N] in [0, 1]: the same in floats. `bias` [B, N, N]: added to
    attention scores, 0 or a large negative number. `c` [B, D]: a condition. `t` [B] in [0, 1000]. `y` [B]: labels.
    """

    keep: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    c: Tensor | None = None
    t: Tensor | None = None
    y: Tensor | None = None


class Block(nn.Module):
    """Maps tokens [B, N, D] to tokens. Drawn with one value of each of `CHOICES`, as keyword arguments.

    `NEEDS` are the extras it reads; `needs` says so of one that was drawn. `refusal` is a pattern of what a refusal of
    one may say, where a refusal is right; None where the block must work.
    """

    CHOICES: ClassVar[Mapping[str, Sequence[Any]]] = {}
    NEEDS: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def needs(cls, choice: Mapping[str, Any]) -> tuple[str, ...]:
        return cls.NEEDS

    @classmethod
    def refusal(cls, choice: Mapping[str, Any]) -> str | None:
        return None

    @classmethod
    def draw(cls, rng: random.Random) -> dict[str, Any]:
        return {name: rng.choice(values) for name, values in cls.CHOICES.items()}

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        raise NotImplementedError


BLOCKS: dict[str, type[Block]] = {}
Kind = TypeVar("Kind", bound=type[Block])


def block(name: str) -> Callable[[Kind], Kind]:
    """Registers a kind of block under `name`."""

    def register(kind: Kind) -> Kind:
        BLOCKS[name] = kind
        return kind

    return register


def present(value: Tensor | None) -> Tensor:
    """An extra that the block needs."""
    assert value is not None
    return value
