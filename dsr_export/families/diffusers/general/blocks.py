"""A transformer's blocks, found by running it: what stands in its lists of modules and hands tokens on.

A block is called with tokens [B, N, D] and returns others of the same shape: its image tokens are those that go in as
`hidden_states`, or as its first argument. Two streams come in two forms: a block of both returns the prompt's tokens,
which go in as `encoder_hidden_states`, beside the image's; and behind a join both are one sequence (`joined`).
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dsr_export.errors import ExportError
from dsr_export.spec import Stream

TOKENS: Mapping[Stream, str] = {"image": "hidden_states", "text": "encoder_hidden_states"}
Run = Callable[[Stream | None], Any]
"""Calls the transformer once: with the same inputs each time but for those of a stream, where one is named."""


@dataclass(frozen=True)
class Block:
    """What a block hands on of each stream.

    `places` says where its tokens stand in the tuple that is returned; None where they are returned alone. A stream
    that is not in it is not handed on. `others` are the rows of that sequence which are not the stream's.
    """

    name: str
    module: nn.Module
    widths: Mapping[Stream, int]
    places: Mapping[Stream, int | None]
    others: Mapping[Stream, tuple[int, ...]] = field(default_factory=dict)

    def tokens(self, stream: Stream, output: Any) -> Tensor:
        """The sequence in what the block returned, [B, n, D]."""
        place = self.places[stream]
        found: Tensor = output if place is None else output[place]
        return found

    def with_tokens(self, stream: Stream, output: Any, tokens: Tensor) -> Any:
        """`output` with that sequence in its place."""
        place = self.places[stream]
        return tokens if place is None else (*output[:place], tokens, *output[place + 1 :])


@dataclass(frozen=True)
class Seen:
    """A block and one call of it: `output` is what it returned, but for the tokens that it hands on.

    `shape` [B, N, D] is that of the sequence with the image's tokens.
    """

    block: Block
    output: tuple[Any, ...]
    shape: torch.Size


def seen_blocks(transformer: nn.Module, run: Run) -> list[Seen]:
    """In the order in which `run` first calls them: those of the width that most have.

    Raises ExportError for a block whose image tokens cannot be told from another stream's, since both are as many.
    """
    found: dict[str, Seen] = {}
    with _watched(transformer, found), torch.no_grad():
        run(None)
    widths = Counter(seen.block.widths["image"] for seen in found.values())
    most = max(widths, key=lambda width: widths[width], default=0)
    return [seen for seen in found.values() if seen.block.widths["image"] == most]


class _Reached(Exception):
    """A block has been called, and how is known."""


def check_batch_first(found: Sequence[Seen], run: Callable[[], Any]) -> None:
    """Raises ExportError where tokens are [N, B, D]; `run` calls the transformer with another number of rows."""
    if not found:
        return
    first, shapes = found[0], list[torch.Size]()

    def reached(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        shapes.append(sequences(named_arguments(module, args, kwargs))["image"].shape)
        raise _Reached

    hook = first.block.module.register_forward_pre_hook(reached, with_kwargs=True)
    try:
        with torch.no_grad():
            run()
    except _Reached:
        pass
    finally:
        hook.remove()
    if shapes[0][0] == first.shape[0] and shapes[0][1] != first.shape[1]:
        hint = "insert dsr_export.registers in code of your own, and give it as module:callable"
        raise ExportError(f"'{first.block.name}' takes its tokens with the batch as second axis, not first", hint=hint)


def listed(transformer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules in the lists that the transformer holds itself."""
    for name, child in transformer.named_children():
        if isinstance(child, nn.ModuleList):
            yield from ((f"{name}.{i}", each) for i, each in enumerate(child))


def named_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a module was called with, by the names of its parameters."""
    names = [each for each in inspect.signature(type(module).forward).parameters if each not in kwargs]
    return {**dict(zip(names[1:], args, strict=False)), **kwargs}


def sequences(given: Mapping[str, Any]) -> dict[Stream, Tensor]:
    """The tokens [B, n, D] of each stream that a block was given; none where the first are no tokens."""
    tokens = {key: value for key, value in given.items() if isinstance(value, Tensor) and value.ndim == 3}
    image = given.get(TOKENS["image"], next(iter(tokens.values()), None))
    if not isinstance(image, Tensor) or image.ndim != 3:
        return {}
    text = tokens.get(TOKENS["text"])
    return {"image": image} if text is None or text is image else {"image": image, "text": text}


@contextmanager
def _watched(transformer: nn.Module, found: dict[str, Seen]) -> Iterator[None]:
    def watch(name: str) -> Callable[..., None]:
        def seen(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            made = None if name in found else _seen(name, module, named_arguments(module, args, kwargs), output)
            if made is not None:
                found[name] = made

        return seen

    handles = [module.register_forward_hook(watch(name), with_kwargs=True) for name, module in listed(transformer)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _seen(name: str, module: nn.Module, given: Mapping[str, Any], output: Any) -> Seen | None:
    tokens = sequences(given)
    if not tokens:
        return None
    widths: dict[Stream, int] = {stream: each.shape[-1] for stream, each in tokens.items()}
    shape = tokens["image"].shape
    if isinstance(output, Tensor):
        return Seen(Block(name, module, widths, {"image": None}), (), shape) if output.shape == shape else None
    parts = output if isinstance(output, tuple) else ()
    at: dict[Stream, list[int]] = {stream: _places(parts, each) for stream, each in tokens.items()}
    if len(at["image"]) > 1:
        raise ExportError(
            f"'{name}' returns several streams of {shape[1]} tokens: which of them are the image's is not told",
            hint="give the prompt another length, for example --option text_tokens=77",
        )
    if not at["image"]:
        return None
    places: dict[Stream, int | None] = {stream: each[0] for stream, each in at.items() if each}
    left = tuple(None if i in places.values() else part for i, part in enumerate(parts))
    return Seen(Block(name, module, widths, places), left, shape)


def _places(parts: tuple[Any, ...], tokens: Tensor) -> list[int]:
    return [i for i, part in enumerate(parts) if isinstance(part, Tensor) and part.shape == tokens.shape]
