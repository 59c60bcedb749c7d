"""What a block is called with, as a flat list: its tokens, tables, masks and numbers; and walks that note it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dsr_export.families.diffusers.general.blocks import Block, Seen, named_arguments, sequences
from dsr_export.families.diffusers.general.joined import passing_through

ROUNDING = 1e-5


@dataclass(frozen=True)
class Called:
    """One call of a block. `others` is how many tokens it is given beside the sequence that holds the image's."""

    block: Block
    leaves: tuple[Any, ...]
    names: tuple[str, ...]
    form: Any
    tokens: Tensor
    others: int

    @classmethod
    def of(cls, block: Block, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Called:
        paths, form = pytree.tree_flatten_with_path((args, dict(kwargs)))
        known = [each for each in inspect.signature(type(block.module).forward).parameters if each != "self"]
        names = tuple(_name([_key(step) for step in path], known) for path, _ in paths)
        leaves = [leaf for _, leaf in paths]
        found = sequences(named_arguments(block.module, args, kwargs))
        others = found["text"].shape[1] if "text" in found else 0
        return cls(block, tuple(leaves), names, form, found["image"], others)

    @property
    def length(self) -> int:
        return self.tokens.shape[1]

    @property
    def own(self) -> list[int]:
        """The rows of the sequence that are the image's."""
        left = set(self.block.others.get("image", ()))
        return [i for i in range(self.length) if i not in left]

    def with_leaves(self, leaves: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments again, with these leaves."""
        args, kwargs = pytree.tree_unflatten(list(leaves), self.form)
        return tuple(args), kwargs

    @property
    def sequence(self) -> int:
        """Which leaf holds the image's tokens."""
        return next(i for i, leaf in enumerate(self.leaves) if leaf is self.tokens)

    def with_tokens(self, leaves: Sequence[Any], tokens: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with these leaves, but for `tokens` in the place of the image's."""
        return self.with_leaves([tokens if i == self.sequence else leaf for i, leaf in enumerate(leaves)])


def _key(step: Any) -> Any:
    return step.idx if isinstance(step, pytree.SequenceKey) else getattr(step, "key", step)


def _name(path: Sequence[Any], known: Sequence[str]) -> str:
    """What an argument is called, with its place where it is one of several: `rope[0]`."""
    named, first, *inner = path
    name = str(first) if named == 1 else known[first] if first < len(known) else f"argument {first}"
    return name + "".join(f"[{step}]" for step in inner)


def near(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same but for rounding."""
    return one.shape == other.shape and bool((one - other).abs().max() <= ROUNDING * other.abs().max())


@dataclass(frozen=True)
class Walk:
    """The calls of one run in which every block hands on what it is given, and what came out of the model."""

    calls: tuple[Called, ...]
    outputs: tuple[Tensor, ...]


def walk(found: Sequence[Seen], blocks: Mapping[str, Block], run: Callable[[], Any]) -> Walk:
    """One run without what the blocks do; `blocks` are those of `found`, by name, with the rows of each stream."""
    calls: list[Called] = []

    def note(seen: Seen, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append(Called.of(blocks[seen.block.name], args, kwargs))

    with torch.no_grad(), passing_through(found, note):
        made = run()
    return Walk(tuple(calls), tuple(each for each in pytree.tree_leaves(made) if isinstance(each, Tensor)))


def with_rows(tokens: Tensor, at: int, rows: Tensor) -> Tensor:
    """`tokens` [B, n, D] with `rows` [R, D] put in before row `at`."""
    added = rows[None].expand(tokens.shape[0], -1, -1)
    return torch.cat([tokens[:, :at], added, tokens[:, at:]] if at else [added, tokens], dim=1)


def without_rows(tokens: Tensor, at: int, count: int) -> Tensor:
    """`tokens` [B, n, D] without `count` rows from row `at` on."""
    left = tokens[:, at + count :]
    return torch.cat([tokens[:, :at], left], dim=1) if at else left
