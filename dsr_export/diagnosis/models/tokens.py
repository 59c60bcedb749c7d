"""What diagnosis asks of a model: its blocks, which rows are patches, and where an MLP's activations can be read.

Shapes: B images, n rows of the sequence, D channels, H MLP neurons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from torch import Tensor, nn

from dsr_export.errors import ExportError

_MLP_NAMES = ("mlp", "ffn", "ff", "feed_forward")
Watch = Callable[[int, Tensor], None]
"""Layer and tensor, once per forward pass."""


class TokenModel(Protocol):
    """A pre-norm transformer, seen from outside."""

    @property
    def depth(self) -> int: ...

    def block(self, layer: int) -> nn.Module:
        """The block itself."""
        ...

    def tokens(self, layer: int) -> nn.Module:
        """The module whose output [B, n, D], alone or first of a tuple, is what layer `layer` passes on."""
        ...

    def patch_rows(self, rows: int) -> slice:
        """Which of a sequence's `rows` are patches; the others are registers or CLS."""
        ...

    def mlp_activation(self, layer: int) -> nn.Module:
        """The module whose first input is the MLP's activations [B, n, H], behind the non-linearity and the gate."""
        ...


class FoundBlocks:
    """Any ViT-like module: its longest list of equal blocks. Rows beyond the largest square are a prefix (CLS)."""

    def __init__(self, module: nn.Module) -> None:
        self._blocks = find_blocks(module)

    @property
    def depth(self) -> int:
        return len(self._blocks)

    def block(self, layer: int) -> nn.Module:
        return self._blocks[layer]

    def tokens(self, layer: int) -> nn.Module:
        return self._blocks[layer]

    def patch_rows(self, rows: int) -> slice:
        return slice(rows - math.isqrt(rows) ** 2, rows)

    def mlp_activation(self, layer: int) -> nn.Module:
        return mlp_output(self._blocks[layer], layer)


def find_blocks(module: nn.Module) -> Sequence[nn.Module]:
    """The longest ModuleList whose entries are of one class and have an MLP. Raises ExportError where there is none."""
    lists = [list(found) for found in module.modules() if isinstance(found, nn.ModuleList)]
    stacks = [blocks for blocks in lists if blocks and len({type(block) for block in blocks}) == 1]
    stacks = [blocks for blocks in stacks if _mlp(blocks[0]) is not None]
    if not stacks:
        raise ExportError(
            f"{type(module).__name__} has no list of transformer blocks with an MLP each",
            hint="diagnose looks for a ModuleList of blocks that hold " + ", ".join(_MLP_NAMES),
        )
    return max(stacks, key=len)


def mlp_output(block: nn.Module, layer: int) -> nn.Module:
    """The last linear layer of the block's MLP: `fc2`, or `w3` of a gated one, by its place rather than its name."""
    mlp = _mlp(block)
    linears = [] if mlp is None else [part for part in mlp.modules() if isinstance(part, nn.Linear)]
    if not linears:
        raise ExportError(f"layer {layer} ({type(block).__name__}) has no MLP that can be read")
    return linears[-1]


def _mlp(block: nn.Module) -> nn.Module | None:
    named = (getattr(block, name, None) for name in _MLP_NAMES)
    return next((part for part in named if isinstance(part, nn.Module)), None)


@contextmanager
def watching(
    model: TokenModel,
    *,
    tokens: Watch,
    activations: Watch | None = None,
    activation_layers: Sequence[int] = (),
    entering: Watch | None = None,
) -> Iterator[None]:
    """While active, gives every layer's tokens [B, n, D], and the MLP activations [B, n, H] of some, to the callbacks.

    `entering` is given the tokens that each block reads. Nothing is changed, and nothing stays behind.
    """
    with ExitStack() as hooks:
        for layer in range(model.depth):
            hooks.enter_context(model.tokens(layer).register_forward_hook(_after(layer, tokens)))
            if entering is not None:
                hooks.enter_context(model.block(layer).register_forward_pre_hook(_before(layer, entering)))
        for layer in activation_layers if activations is not None else ():
            assert activations is not None
            hooks.enter_context(model.mlp_activation(layer).register_forward_pre_hook(_before(layer, activations)))
        yield


def _after(layer: int, watch: Watch) -> Any:
    def hook(_: nn.Module, __: Any, output: Any) -> None:
        watch(layer, output[0] if isinstance(output, tuple) else output)

    return hook


def _before(layer: int, watch: Watch) -> Any:
    def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
        watch(layer, args[0])

    return hook
