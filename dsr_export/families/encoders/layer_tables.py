"""What the layers of an encoder read beside their tokens: tables that one resolution fixes, grown by appended rows.

Shapes: L rows of the sequence (N of them patches), R appended rows, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsr_export.errors import ExportError
from dsr_export.families.encoders.observed import LayerCall, same

Kind = Literal["fixed", "ones", "zeros", "bias", "unknown"]
MARGIN = 0.02  # by which a table of cosines must lie above one of sines, on average, to be told from it


@dataclass(frozen=True)
class _Slot:
    """Stands for a tensor in the arguments of a call."""

    index: int


class LayerTables(nn.Module):
    """The arguments of every layer, with tensors as buffers. An appended row is turned by no angle, and biased by 0."""

    def __init__(self, calls: Sequence[LayerCall], *, tokens: int, patches: int) -> None:
        super().__init__()
        self._tensors: list[Tensor] = []
        self._kinds: list[Kind] = []
        self._lengths = (tokens, patches)
        self._calls = [LayerCall(self._kept(call.args, ""), self._kept(dict(call.kwargs), "")) for call in calls]
        self.append(0)

    def append(self, rows: int) -> None:
        """Grows the tables, as they were observed, by `rows`. ExportError where nothing says how one grows."""
        for index, (tensor, kind) in enumerate(zip(self._tensors, self._kinds, strict=True)):
            if rows and kind == "unknown":
                raise ExportError(
                    f"layers read a table {list(tensor.shape)} with an entry per token, and nothing says what an "
                    "appended register has there",
                    hint="test-time registers fit rotary tables, masks and biases of attention",
                )
            self.register_buffer(f"table_{index}", _grown(tensor, kind, rows), persistent=False)

    def of(self, layer: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments behind the tokens, positional and by name."""
        call = self._calls[layer]
        return _mapped(call.args, self._table), _mapped(dict(call.kwargs), self._table)

    def _table(self, slot: Any) -> Any:
        return getattr(self, f"table_{slot.index}") if isinstance(slot, _Slot) else slot

    def _kept(self, value: Any, name: str) -> Any:
        """`value` with slots in place of its tensors; a mask that masks nothing is none."""
        if isinstance(value, tuple | list) and len(value) == 2 and _is_rotation(*value, lengths=self._lengths):
            return tuple(self._slot(each, kind) for each, kind in zip(value, _order(*value), strict=True))
        if isinstance(value, tuple | list):
            return tuple(self._kept(each, name) for each in value)
        if isinstance(value, dict):
            return {key: self._kept(each, str(key)) for key, each in value.items()}
        if not isinstance(value, Tensor):
            return value
        return None if _masks_nothing(value) else self._slot(value, self._kind(value, name))

    def _slot(self, tensor: Tensor, kind: Kind) -> _Slot:
        for index, known in enumerate(self._tensors):
            if same(known, tensor) and self._kinds[index] == kind:
                return _Slot(index)
        self._tensors.append(tensor)
        self._kinds.append(kind)
        return _Slot(len(self._tensors) - 1)

    def _kind(self, tensor: Tensor, name: str) -> Kind:
        rows = tensor.shape[-2] if tensor.ndim > 1 else 0
        if tensor.ndim > 1 and rows == tensor.shape[-1] == self._lengths[0] and not tensor.is_complex():
            return "ones" if tensor.dtype == torch.bool else "bias"
        if rows in self._lengths and (tensor.is_complex() or "cos" in name):
            return "ones"
        if rows in self._lengths and "sin" in name:
            return "zeros"
        return "unknown" if any(size in self._lengths for size in tensor.shape) else "fixed"


class GrownBias(nn.Module):
    """A module within a layer that makes a bias of attention [.., L, L] of nothing: appended rows are biased by 0."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.rows = inner, 0

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        made: Tensor = self.inner(*args, **kwargs)
        return F.pad(made, (0, self.rows, 0, self.rows)) if self.rows else made


def grow_biases(layers: nn.ModuleList, biases: Collection[nn.Module]) -> None:
    """Puts a `GrownBias` around each of `biases`."""
    for name, part in list(layers.named_modules()):
        if part in biases:
            layers.set_submodule(name, GrownBias(part))


def _grown(tensor: Tensor, kind: Kind, rows: int) -> Tensor:
    if not rows or kind in ("fixed", "unknown"):
        return tensor
    if kind == "bias" or tensor.dtype == torch.bool:
        return F.pad(tensor, (0, rows, 0, rows), value=float(tensor.dtype == torch.bool))
    fill = tensor.new_ones if kind == "ones" else tensor.new_zeros
    return torch.cat([tensor, fill((*tensor.shape[:-2], rows, tensor.shape[-1]))], dim=-2)


def _is_rotation(left: Any, right: Any, *, lengths: tuple[int, int]) -> bool:
    """Two tables [.., rows, D] that are cosine and sine of the same angles."""
    if not (isinstance(left, Tensor) and isinstance(right, Tensor) and left.shape == right.shape):
        return False
    if left.ndim < 2 or left.shape[-2] not in lengths or not left.is_floating_point():
        return False
    return left.is_meta or bool(((left**2 + right**2 - 1).abs() < 1e-4).all())


def _order(left: Tensor, right: Tensor) -> tuple[Kind, Kind]:
    """Which of the two is the cosine: around angle 0, where it is about 1 and the sine about 0."""
    difference = 1.0 if left.is_meta else float((left - right).mean())
    if abs(difference) < MARGIN:
        return "unknown", "unknown"
    return ("ones", "zeros") if difference > 0 else ("zeros", "ones")


def _masks_nothing(tensor: Tensor) -> bool:
    if tensor.is_meta or tensor.ndim != 4:
        return False
    return bool(tensor.all()) if tensor.dtype == torch.bool else not tensor.any()


def _mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(value, tuple):
        return tuple(_mapped(each, function) for each in value)
    if isinstance(value, dict):
        return {key: _mapped(each, function) for key, each in value.items()}
    return function(value)
