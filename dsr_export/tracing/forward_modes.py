"""A module's `forward` under a mode of PyTorch's: within it every torch function that the user's code calls is seen."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


@contextlib.contextmanager
def under(module: nn.Module, mode: Callable[[], TorchFunctionMode]) -> Iterator[None]:
    """Within the block, each call of `module.forward` runs in a mode of its own, which `mode` makes at that moment."""

    def called(own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with mode():
            return own(*args, **kwargs)

    with _calling(module, called):
        yield


@contextlib.contextmanager
def one_batch(module: nn.Module) -> Iterator[None]:
    """Within the block, the first axes of all inputs of `module` are known to be one size before its code runs."""

    def called(own: Callable[..., Any], *args: Any) -> Any:
        sizes = [each.shape[0] for each in args]
        for size in sizes[1:]:
            torch._check(size == sizes[0])  # type: ignore[no-untyped-call]
        return own(*args)

    with _calling(module, called):
        yield


@contextlib.contextmanager
def _calling(module: nn.Module, called: Callable[..., Any]) -> Iterator[None]:
    own = module.forward
    before = module.__dict__.get("forward")
    module.__dict__["forward"] = functools.wraps(own)(functools.partial(called, own))
    try:
        yield
    finally:
        module.__dict__.pop("forward")
        if before is not None:
            module.__dict__["forward"] = before
