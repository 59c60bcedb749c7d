"""The example inputs that a module comes with: checked, and in the order its `forward` takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dsr_export.errors import ExportError
from dsr_export.tracing.signatures import call_of, taking
from dsr_export.user_code.imported import described

DTYPES = {torch.float32: "float32", torch.int64: "int64", torch.int32: "int32", torch.bool: "bool"}
WANTED = "return a module and its inputs: (module, {'x': torch.randn(2, 4, 32, 32)}), or a dsr_export.Subject"


def example_inputs(made: Any, module: nn.Module, called: str) -> Any:
    """The second of a pair, or what the module has under the name `example_inputs`; None without either."""
    if isinstance(made, tuple):
        return made[1] if len(made) > 1 else None
    given = getattr(module, "example_inputs", None)
    if not callable(given):
        return given
    try:
        return given()
    except Exception as error:  # the user's code may raise anything
        raise ExportError(f"example_inputs() of {called} raised {described(error)}") from error


def checked_inputs(inputs: Any, called: str) -> dict[str, Tensor]:
    """Raises `ExportError` for anything but tensors by name that share their first axis, the batch."""
    hint = f"{WANTED}; or give the module a method example_inputs()"
    if inputs is None:
        raise ExportError(f"{called} comes without example inputs", hint=hint)
    if not isinstance(inputs, Mapping) or not inputs:
        raise ExportError(f"the example inputs of {called} are {kind_of(inputs)}, not tensors by name", hint=hint)
    for name, value in inputs.items():
        _check_input(f"example input '{name}' of {called}", name, value)
    sizes = {name: len(value) for name, value in inputs.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {list(inputs[name].shape)}" for name in sizes)
        raise ExportError(
            f"the first axes of {called}'s example inputs disagree about the batch: {listed}",
            hint="make the batch the first axis of every input, and keep what has none inside the module",
        )
    return dict(inputs)


def _check_input(what: str, name: Any, value: Any) -> None:
    if not isinstance(name, str) or not name.isidentifier():
        raise ExportError(f"{what}: a name must be a Python identifier")
    if not isinstance(value, Tensor):
        raise ExportError(f"{what} is {kind_of(value)}, not a tensor", hint="keep constants inside the module")
    if value.dtype not in DTYPES:
        known = ", ".join(DTYPES.values())
        raise ExportError(f"{what} is {name_of(value.dtype)}; {known} are taken", hint=f"convert it: {name}.float()")
    if value.device.type != "cpu":
        raise ExportError(f"{what} is on {value.device}", hint=f"use {name}.cpu()")
    if value.ndim == 0 or value.numel() == 0:
        raise ExportError(f"{what} has the shape {list(value.shape)}", hint="give it a batch of two as its first axis")


def positional(module: nn.Module, inputs: dict[str, Tensor], called: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """The module as one that takes `inputs` by position, and the inputs in that order."""
    call = call_of(module, list(inputs), called)
    if call.order is not None:
        return module, {name: inputs[name] for name in call.order}
    return taking(module, list(inputs), call), inputs


def kind_of(value: Any) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {', '.join(type(each).__name__ for each in value) or 'nothing'}"
    return "None" if value is None else f"a {type(value).__name__}"


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
