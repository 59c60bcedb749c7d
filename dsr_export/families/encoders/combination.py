"""Which layers' tokens make the output of an encoder, and how (RAEv2, arXiv 2605.18324). Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dsr_export.errors import ExportError

How = Literal["sum", "mean"]
OPTIONS = ("layers", "last_layers", "combine", "plus_mean")
_HINT = "--option layers=11,17,23 names layers from 0; --option last_layers=7 takes the last seven"


@dataclass(frozen=True, kw_only=True)
class Combination:
    """The final norm is applied to the tokens of each of `layers` (from 0, ascending); these are summed or averaged.

    `plus_mean` adds to every patch the mean over the patches of the last of them: what stands in for a CLS.
    """

    layers: tuple[int, ...]
    how: How = "sum"
    plus_mean: bool = False

    @classmethod
    def of(cls, options: Mapping[str, Any], depth: int) -> Combination:
        """What `options` ask for; the last layer alone where they ask for nothing.

        Raises ExportError for layers that the model does not have, and for an unknown way to combine them.
        """
        if "layers" in options and "last_layers" in options:
            raise ExportError("both layers and last_layers are given", hint="give one of them")
        layers = _listed(options["layers"], depth) if "layers" in options else _last(options, depth)
        how = options.get("combine", "sum")
        if how not in ("sum", "mean"):
            raise ExportError(f"option combine={how!r} is unknown", hint="sum or mean")
        return cls(layers=layers, how=how, plus_mean=bool(options.get("plus_mean", False)))


def _last(options: Mapping[str, Any], depth: int) -> tuple[int, ...]:
    count = int(options.get("last_layers", 1))
    if not 1 <= count <= depth:
        raise ExportError(f"last_layers is {count}, and the model has {depth} layers", hint=_HINT)
    return tuple(range(depth - count, depth))


def _listed(value: Any, depth: int) -> tuple[int, ...]:
    """A number, several in a sequence, or as text with commas; negative ones count from the end."""
    parts: Sequence[Any] = value.split(",") if isinstance(value, str) else [value] if type(value) is int else value
    try:
        numbers = [int(part) for part in parts]
    except (TypeError, ValueError):
        raise ExportError(f"option layers={value!r} is no list of layers", hint=_HINT) from None
    wrong = [number for number in numbers if not -depth <= number < depth]
    if wrong:
        raise ExportError(f"layer {wrong[0]}: the model has layers 0 to {depth - 1}", hint=_HINT)
    layers = tuple(sorted(number % depth for number in numbers))
    if not layers or len(set(layers)) < len(layers):
        raise ExportError(f"option layers={value!r} names a layer twice, or none", hint=_HINT)
    return layers
