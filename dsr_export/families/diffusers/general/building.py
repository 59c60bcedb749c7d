"""Construction without memory for weights: tables that a constructor computes get their values, parameters none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from dsr_export.families.diffusers.general.adapter import single


def built(make: Callable[[], nn.Module]) -> nn.Module:
    """What `make` constructs, its parameters on the meta device, its buffers and plain tensors in FP32 on the CPU.

    Each parameter leaves the CPU as soon as it is registered, before it is drawn. The state of torch's own generator
    is kept.
    """
    with _parameters_without_memory(), torch.random.fork_rng(devices=[]):
        made = make()
    for module in made.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else single(buffer)
        for name, value in list(vars(module).items()):
            if name not in _TORCH:
                vars(module)[name] = _narrowed(value)
    return made


def given_memory(module: nn.Module) -> None:
    """Allocates the parameters that have no memory; what is shared stays shared."""
    made: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None and weight.is_meta:
                fresh = made.setdefault(id(weight), nn.Parameter(torch.empty_like(weight, device="cpu"), False))
                part._parameters[name] = fresh


_TORCH = frozenset(vars(nn.Module()))


def _narrowed(value: Any) -> Any:
    """Plain tensors of a module, and lists of them: tables of rotations that are no buffers."""
    if isinstance(value, Tensor):
        return single(value)
    if type(value) in (list, tuple) and value and all(isinstance(each, Tensor) for each in value):
        return type(value)(single(each) for each in value)
    return value


@contextmanager
def _parameters_without_memory() -> Iterator[None]:
    register = nn.Module.register_parameter

    def bare(module: nn.Module, name: str, weight: nn.Parameter | None) -> None:
        if weight is not None and not weight.is_meta:
            weight = nn.Parameter(weight.detach().to("meta"), weight.requires_grad)
        register(module, name, weight)

    with mock.patch.object(nn.Module, "register_parameter", bare):
        yield
