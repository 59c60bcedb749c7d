"""Puts registers into a denoiser's blocks as a plan says, by hooks: what is traced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dsr_export.families.diffusers.general.blocks import Block
from dsr_export.families.diffusers.general.inserting.calls import Called, with_rows, without_rows
from dsr_export.families.diffusers.general.inserting.extension import extended_leaves
from dsr_export.families.diffusers.general.inserting.plan import Plan


def insert(denoiser: Any, blocks: Sequence[Block], plan: Plan) -> None:
    """From then on the denoiser's `registers` pass through its blocks. Hooks behind the last come before ours."""
    made = _Made({})
    for block in blocks:
        if block.name in plan.at:
            block.module.register_forward_pre_hook(_Before(denoiser, block, plan, made), with_kwargs=True)
        if block.name == plan.last:
            block.module.register_forward_hook(_After(block, plan, made))


@dataclass(frozen=True, eq=False)
class _Made:
    """What was made of arguments that several blocks are given; emptied behind the last."""

    values: dict[Any, tuple[Any, Any]]

    def kept(self, key: Any, make: Any) -> Any:
        extended, leaf = key
        name = extended, id(leaf)
        if name not in self.values:
            self.values[name] = leaf, make()  # the leaf is held, so that no other takes its id
        return self.values[name][1]


@dataclass(frozen=True, eq=False)
class _Before:
    denoiser: Any
    block: Block
    plan: Plan
    made: _Made

    def __call__(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        called, plan = Called.of(self.block, args, kwargs), self.plan
        tokens: Tensor = called.tokens
        if self.block.name == plan.first:
            self.made.values.clear()
            tokens = with_rows(tokens, plan.at[plan.first], self.denoiser.registers)
        leaves = extended_leaves(called.leaves, plan.extensions[self.block.name], plan.count, self.made.kept)
        return called.with_tokens(leaves, tokens)


@dataclass(frozen=True, eq=False)
class _After:
    block: Block
    plan: Plan
    made: _Made

    def __call__(self, _: nn.Module, __: Any, output: Any) -> Any:
        self.made.values.clear()
        kept = without_rows(self.block.tokens("image", output), self.plan.at[self.block.name], self.plan.count)
        return self.block.with_tokens("image", output, kept)
