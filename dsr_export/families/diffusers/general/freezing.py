"""Replaces a submodule that is fed constants by what it returns: tables of rotations that it reckons by value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from dsr_export.families.diffusers.general.adapter import single
from dsr_export.families.diffusers.general.running import Reached


class Frozen(nn.Module):
    """Returns the same tensors whatever it is called with."""

    def __init__(self, tables: tuple[Tensor, ...]) -> None:
        super().__init__()
        for i, table in enumerate(tables):
            self.register_buffer(f"table_{i}", single(table), persistent=False)

    def forward(self, *_: Any, **__: Any) -> tuple[Tensor, ...]:
        return tuple(self.buffers())


def freeze(transformer: nn.Module, name: str, run: Callable[[], Any]) -> None:
    """Replaces the submodule `name`, which returns a tuple of tensors, by them; `run` calls the transformer once."""
    found: list[tuple[Tensor, ...]] = []

    def stop(_: nn.Module, __: Any, made: tuple[Tensor, ...]) -> None:
        found.append(made)
        raise Reached

    hook = transformer.get_submodule(name).register_forward_hook(stop)
    try:
        run()
    except Reached:
        setattr(transformer, name, Frozen(tuple(table.clone() for table in found[0])))
    finally:
        hook.remove()
