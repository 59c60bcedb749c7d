"""Outputs that a bundle does not hold: they keep their place, and say so to whoever reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from dsr_export.errors import ExportError


class Absent(torch.Tensor):
    """Raises ExportError whatever is done with it: reading its shape, computing, copying it.

    It may be sent to a device, as hooks of accelerate send all that a model returns.
    """

    told: tuple[str, str]

    @classmethod
    def of(cls, what: str, hint: str) -> Absent:
        """`what` ends the sentence that the bundle gives no such thing."""
        made: Absent = torch.Tensor._make_subclass(cls, torch.empty(0))
        made.told = (what, hint)
        return made

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Iterable[Any] = (), kwargs: Any = None
    ) -> Any:
        absent = _first(_given(args, kwargs))
        if function is torch.Tensor.to and not any(isinstance(each, torch.dtype) for each in _given(args, kwargs)):
            return absent
        what, hint = absent.told
        raise ExportError(f"the bundle gives no {what}", hint=hint)

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"<no {self.told[0]}>"


def _given(args: Iterable[Any], kwargs: Any) -> Iterable[Any]:
    return [*args, *(kwargs or {}).values()]


def _first(values: Iterable[Any]) -> Absent:
    """The one among arguments, however deep: torch calls for nothing else."""
    todo = list(values)
    while not isinstance(todo[0], Absent):
        each = todo.pop(0)
        todo = [*each, *todo] if isinstance(each, Iterable) and not isinstance(each, torch.Tensor | str) else todo
    return todo[0]
