"""One run of a `transformers` vision model, watched: what its parts are is read off what they do, not off their names.

Shapes: L rows of the sequence, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dsr_export.errors import ExportError

HINT = "export it as module:callable instead; encoders are built of one list of layers over [batch, tokens, channels]"


@dataclass(frozen=True)
class LayerCall:
    """What one layer was given behind its tokens."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True)
class Step:
    """A convolution, linear layer or norm outside the layers, with what it read and made."""

    module: nn.Module
    given: Tensor
    made: Tensor


@dataclass(kw_only=True)
class Run:
    """`tokens[i]` [1, L, C] is what layer i read, `tokens[-1]` what the last one made.

    `before` and `after` are the steps outside `layers` in their order, `ran` every module that ran up to the last
    layer: whatever else a model has is no part of its patch tokens. `biases` are modules within layers that make a bias
    of attention [.., L, L] of no tensor.
    """

    layers: nn.ModuleList
    calls: list[LayerCall] = field(default_factory=list)
    tokens: list[Tensor] = field(default_factory=list)
    before: list[Step] = field(default_factory=list)
    after: list[Step] = field(default_factory=list)
    ran: set[nn.Module] = field(default_factory=set)
    biases: set[nn.Module] = field(default_factory=set)

    @property
    def done(self) -> bool:
        return len(self.tokens) > len(self.layers)


def watched(model: nn.Module, call: Callable[[], Any], zeroed: nn.Module | None = None) -> Run:
    """Runs `call`, in which `model` sees one image. What the module `zeroed` makes is replaced by zeros.

    Raises ExportError where the model has no one list of layers that hand tokens of one shape on.
    """
    run = Run(layers=_stack(model))
    inner = {part for layer in run.layers for part in layer.modules()}
    with ExitStack() as hooks, torch.no_grad():
        if zeroed is not None:
            hooks.enter_context(zeroed.register_forward_hook(lambda _, __, made: torch.zeros_like(made)))
        for part in model.modules():
            hooks.enter_context(part.register_forward_pre_hook(_marking(run)))
            if part not in inner and _is_step(part):
                hooks.enter_context(part.register_forward_hook(_stepping(run)))
        for part in inner:
            hooks.enter_context(part.register_forward_hook(_biasing(run), with_kwargs=True))
        for number, layer in enumerate(run.layers):
            hooks.enter_context(layer.register_forward_pre_hook(_entering(run, number), with_kwargs=True))
            hooks.enter_context(layer.register_forward_hook(_leaving(run, number)))
        call()
    if not run.done:
        raise ExportError(f"{_name(model)} does not run its {len(run.layers)} layers one after another", hint=HINT)
    return run


def is_norm(module: nn.Module) -> bool:
    """A LayerNorm, or an RMSNorm of whatever class."""
    return isinstance(module, nn.LayerNorm) or "RMSNorm" in type(module).__name__


def same(left: Tensor, right: Tensor) -> bool:
    """Equal bit for bit; without values (on the meta device) the very same object."""
    if left is right:
        return True
    return left.shape == right.shape and not left.is_meta and torch.equal(left, right)


def first_tensor(made: Any) -> Any:
    """Layers give their tokens alone, or first of a tuple (transformers 4)."""
    return made[0] if isinstance(made, tuple) else made


def _stack(model: nn.Module) -> nn.ModuleList:
    """The list of transformer layers: the outermost, of entries of one class that hold linear layers."""
    lists = [part for part in model.modules() if isinstance(part, nn.ModuleList) and len(part)]
    stacks = [each for each in lists if len({type(layer) for layer in each}) == 1 and _linears(each[0]) > 1]
    inner = {part for each in stacks for layer in each for part in layer.modules()}
    outer = [each for each in stacks if each not in inner]
    if len(outer) != 1:
        found = f"{len(outer)} lists" if outer else "no list"
        raise ExportError(f"{_name(model)} has {found} of transformer layers, not one", hint=HINT)
    return outer[0]


def _linears(layer: nn.Module) -> int:
    return sum(isinstance(part, nn.Linear) for part in layer.modules())


def _is_step(part: nn.Module) -> bool:
    return isinstance(part, nn.Conv2d | nn.Linear) or is_norm(part)


def _marking(run: Run) -> Any:
    def hook(module: nn.Module, _: Any) -> None:
        if not run.done:
            run.ran.add(module)

    return hook


def _stepping(run: Run) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], made: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(made, Tensor):
            (run.after if run.done else run.before).append(Step(module, args[0], made))

    return hook


def _biasing(run: Run) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], made: Any) -> None:
        rows = run.tokens[0].shape[1]
        of_tensors = any(isinstance(each, Tensor) for each in (*args, *kwargs.values()))
        if isinstance(made, Tensor) and made.ndim > 2 and made.shape[-2:] == (rows, rows) and not of_tensors:
            run.biases.add(module)

    return hook


def _entering(run: Run, number: int) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rest = dict(kwargs)
        tokens = args[0] if args else rest.pop("hidden_states", None)
        if not isinstance(tokens, Tensor) or tokens.ndim != 3:
            shape = list(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
            raise ExportError(f"{_name(module)} reads {shape}, not tokens [batch, tokens, channels]", hint=HINT)
        if number != len(run.calls) or (number and not same(tokens, run.tokens[-1])):
            raise ExportError(f"layer {number} ({_name(module)}) does not read what the one before made", hint=HINT)
        if not number:
            run.tokens.append(tokens)
        run.calls.append(LayerCall(tuple(args[1:]), rest))

    return hook


def _leaving(run: Run, number: int) -> Any:
    def hook(module: nn.Module, _: Any, made: Any) -> None:
        tokens = first_tensor(made)
        if not isinstance(tokens, Tensor) or tokens.shape != run.tokens[0].shape:
            raise ExportError(f"layer {number} ({_name(module)}) changes the shape of its tokens", hint=HINT)
        run.tokens.append(tokens)

    return hook


def _name(module: nn.Module) -> str:
    return type(module).__name__
