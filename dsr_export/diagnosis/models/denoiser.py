"""A denoiser with diffusion registers, seen by diagnosis; its replacement sites can be taken out and put in."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from dsr_export.diagnosis.models.tokens import mlp_output
from dsr_export.families.network_parts.replacements import apply_replacements
from dsr_export.families.network_parts.trunk import Trunk
from dsr_export.spec import ReplaceSpec

Fired = Callable[[int, Tensor], None]
"""Layer, and which tokens a site replaced, bool [B, n]."""


class DenoiserTokens:
    """The `TokenModel` of a `RaeDit` or its wide-head variant: registers are in front, patches last."""

    def __init__(self, module: Trunk) -> None:
        self.module = module

    @property
    def depth(self) -> int:
        return len(self.module.blocks)

    @property
    def replaceable(self) -> int:
        """Blocks from 0 behind which replacement can stand; those of a wide head follow."""
        return self.module.trunk.depth

    @property
    def patches(self) -> int:
        return self.module.trunk.grid**2

    @property
    def register_count(self) -> int:
        return self.module.trunk.register_len if self.module.trunk.register_conditioning else 0

    def block(self, layer: int) -> nn.Module:
        return self.module.blocks[layer]

    def tokens(self, layer: int) -> nn.Module:
        sites = self.module.replacements
        return sites[str(layer)] if str(layer) in sites else self.module.blocks[layer]

    def patch_rows(self, rows: int) -> slice:
        return slice(rows - self.patches, rows)

    def mlp_activation(self, layer: int) -> nn.Module:
        return mlp_output(self.module.blocks[layer], layer)

    @contextmanager
    def own_sites(self) -> Iterator[None]:
        """The model as it is. A site that serves several layers is copied for each, so that hooks tell them apart."""
        before = self.module.replacements
        self.module.replacements = nn.ModuleDict({name: copy.deepcopy(site) for name, site in before.items()})
        try:
            yield
        finally:
            self.module.replacements = before

    @contextmanager
    def sites(self, groups: Sequence[ReplaceSpec]) -> Iterator[None]:
        """The model with `groups` in place of its own sites."""
        before = self.module.replacements
        self.module.replacements = nn.ModuleDict()
        try:
            apply_replacements(self.module, groups, stream=self.module.trunk)
            yield
        finally:
            self.module.replacements = before

    @contextmanager
    def watching_sites(self, fired: Fired) -> Iterator[None]:
        """While active, tells of every site which tokens it replaced."""
        with ExitStack() as hooks:
            for name, site in self.module.replacements.items():
                hooks.enter_context(site.register_forward_hook(_changed(int(name), fired)))
            yield


def _changed(layer: int, fired: Fired) -> Any:
    def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        fired(layer, (args[0] != output).any(dim=-1))

    return hook
