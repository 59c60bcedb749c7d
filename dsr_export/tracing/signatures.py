"""A module whose `forward` takes exactly the inputs it is exported with, by position, whatever its own signature is."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dsr_export.errors import ExportError, did_you_mean

_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Call:
    """How inputs reach `forward`: by position (a name of an input, or the default of a parameter), then by keyword."""

    positional: tuple[str | inspect.Parameter, ...]
    keywords: tuple[str, ...]

    def arguments(self, values: dict[str, Tensor]) -> tuple[list[Any], dict[str, Tensor]]:
        first = [values[each] if isinstance(each, str) else each.default for each in self.positional]
        return first, {name: values[name] for name in self.keywords}

    @property
    def order(self) -> tuple[str, ...] | None:
        """The inputs' names in `forward`'s order, where nothing but their order is to be minded."""
        names = tuple(each for each in self.positional if isinstance(each, str))
        return None if self.keywords or len(names) < len(self.positional) else names


def call_of(module: nn.Module, names: Sequence[str], called: str) -> Call:
    """How `module.forward` takes inputs of these names.

    Raises:
        ExportError: a name that is no parameter, or a parameter without a default that has no input.
    """
    parameters = list(inspect.signature(module.forward).parameters.values())
    kinds = {parameter.kind for parameter in parameters}
    named = {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    extra = [name for name in names if name not in named]
    if extra and not kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
        hint = did_you_mean(extra[0], list(named)) or f"forward takes {', '.join(named)}"
        raise ExportError(f"example input '{extra[0]}' is no parameter of {called}'s forward", hint=hint)
    needed = [name for name, p in named.items() if p.default is p.empty and name not in names]
    if needed:
        raise ExportError(f"{called}'s forward also takes '{needed[0]}'", hint="add it to the example inputs")
    spread = extra if inspect.Parameter.VAR_KEYWORD not in kinds else []  # `*values` takes them, in their order
    first = _first([p for p in named.values() if p.kind in _BY_POSITION], names, all_of_them=bool(spread))
    taken = {each for each in first if isinstance(each, str)} | set(spread)
    return Call((*first, *spread), tuple(name for name in names if name not in taken))


def taking(module: nn.Module, names: Sequence[str], call: Call) -> nn.Module:
    """`module` under the same paths and with the same weights, called with inputs of these names by position."""

    class Adapted(type(module)):  # type: ignore[misc]
        def forward(self, *values: Tensor) -> Any:
            first, rest = call.arguments(dict(zip(names, values, strict=True)))
            return own(self, *first, **rest)

    given = module.__dict__.get("forward")  # one that was set on the instance is bound already
    own: Any = type(module).forward if given is None else lambda _, *args, **kwargs: given(*args, **kwargs)
    adapted = copy.copy(module)
    adapted.__dict__.pop("forward", None)
    adapted.__class__ = Adapted
    return adapted


def _first(
    parameters: Sequence[inspect.Parameter], names: Sequence[str], *, all_of_them: bool
) -> list[str | inspect.Parameter]:
    """Those given by position: up to the first that no input is for, and further only where they have to be."""
    has_to_be = len(parameters) if all_of_them else _last_positional_only(parameters, names)
    first: list[str | inspect.Parameter] = []
    for i, parameter in enumerate(parameters):
        if parameter.name not in names and i >= has_to_be:
            break
        first.append(parameter.name if parameter.name in names else parameter)
    return first


def _last_positional_only(parameters: Sequence[inspect.Parameter], names: Sequence[str]) -> int:
    given = [i for i, p in enumerate(parameters) if p.kind is p.POSITIONAL_ONLY and p.name in names]
    return max(given, default=-1) + 1
