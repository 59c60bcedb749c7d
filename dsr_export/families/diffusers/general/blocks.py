"""A transformer's blocks, found by running it: what stands in its lists of modules and hands tokens on.

A block is called with tokens [B, N, D] and returns others of the same shape, alone or beside those of another stream
(the prompt's, in two-stream blocks): its image tokens are those that go in as
`hidden_states`, or as its first argument.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dsr_export.errors import ExportError

IMAGE = "hidden_states"


@dataclass(frozen=True)
class Block:
    """`place` is where the image tokens stand in the tuple that it returns; None where it returns them alone."""

    name: str
    module: nn.Module
    place: int | None
    width: int


def find_blocks(transformer: nn.Module, run: Callable[[], Any]) -> tuple[Block, ...]:
    """In the order in which `run` first calls them: those of the width that most have.

    Raises ExportError for a block whose image tokens cannot be told from another stream's, since both are as many.
    """
    found: dict[str, Block] = {}
    with _watched(transformer, found), torch.no_grad():
        run()
    widths = Counter(block.width for block in found.values())
    most = max(widths, key=lambda width: widths[width], default=0)
    return tuple(block for block in found.values() if block.width == most)


def listed(transformer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules in the lists that the transformer holds itself."""
    for name, child in transformer.named_children():
        if isinstance(child, nn.ModuleList):
            yield from ((f"{name}.{i}", each) for i, each in enumerate(child))


@contextmanager
def _watched(transformer: nn.Module, found: dict[str, Block]) -> Iterator[None]:
    def watch(name: str) -> Callable[..., None]:
        def seen(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            block = None if name in found else _block(name, module, _named(module, args, kwargs), output)
            if block is not None:
                found[name] = block

        return seen

    handles = [module.register_forward_hook(watch(name), with_kwargs=True) for name, module in listed(transformer)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _named(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    names = [each for each in inspect.signature(module.forward).parameters if each not in kwargs]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _block(name: str, module: nn.Module, given: Mapping[str, Any], output: Any) -> Block | None:
    tokens = {key: value for key, value in given.items() if isinstance(value, Tensor) and value.ndim == 3}
    image = given.get(IMAGE, next(iter(tokens.values()), None))
    if not isinstance(image, Tensor) or image.ndim != 3:
        return None
    if isinstance(output, Tensor):
        return Block(name, module, None, image.shape[-1]) if output.shape == image.shape else None
    parts = output if isinstance(output, tuple) else ()
    places = [i for i, part in enumerate(parts) if isinstance(part, Tensor) and part.shape == image.shape]
    if len(places) > 1:
        raise ExportError(
            f"'{name}' returns several streams of {image.shape[1]} tokens: which of them are the image's is not told",
            hint="give the prompt another length, for example --option text_tokens=77",
        )
    return Block(name, module, places[0], image.shape[-1]) if places else None
