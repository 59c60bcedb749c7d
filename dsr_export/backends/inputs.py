"""The one check of what callers feed a runner, so that every runtime refuses the same mistakes in the same words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.errors import ExportError, did_you_mean
from graphs.artifacts import TensorSpec

Array = npt.NDArray[Any]
LONGEST_NAME = 80  # of what an error repeats


def check_inputs(inputs: Mapping[str, Array], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """The arrays in the order of `specs`, contiguous. Nothing is cast or reshaped.

    Raises:
        ExportError: a missing or unknown name, another dtype or shape, or axes of one name that differ in size.
    """
    check_declared(inputs, specs)
    found = {spec.name: np.asarray(inputs[spec.name]) for spec in specs}
    # A scalar would become a vector.
    return {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in found.items()}


def check_declared(inputs: Mapping[str, Array], specs: Sequence[TensorSpec]) -> None:
    """Names, types and shapes alone; raises what `check_inputs` does."""
    known = [spec.name for spec in specs]
    for name in inputs:
        if name not in known:
            raise ExportError(
                f"there is no input '{name[:LONGEST_NAME]}'",
                hint=did_you_mean(name[:LONGEST_NAME], known) or _inputs_are(specs),
            )
    axes: dict[str, int] = {}
    for spec in specs:
        if spec.name not in inputs:
            raise ExportError(f"input '{spec.name}' is missing", hint=_inputs_are(specs))
        _check_array(np.asarray(inputs[spec.name]), spec, axes)


def _check_array(array: Array, spec: TensorSpec, axes: dict[str, int]) -> None:
    if array.dtype != np.dtype(spec.dtype):
        hint = f"convert it: {spec.name}.astype(numpy.{spec.dtype})"
        raise ExportError(f"input '{spec.name}' is {array.dtype}, and the model takes {spec.dtype}", hint=hint)
    wanted = f"input '{spec.name}' has shape {list(array.shape)}, and the model takes {_shape(spec)}"
    if array.ndim != len(spec.shape):
        raise ExportError(wanted)
    for size, axis in zip(array.shape, spec.shape, strict=True):
        expected = axes.setdefault(axis, size) if isinstance(axis, str) else axis
        if size < 1 or size != expected:
            raise ExportError(f"{wanted}, {axis} = {expected}" if isinstance(axis, str) else wanted)


def _shape(spec: TensorSpec) -> str:
    return "[" + ", ".join(str(axis) for axis in spec.shape) + "]"


def _inputs_are(specs: Sequence[TensorSpec]) -> str:
    return "the inputs are " + ", ".join(f"{spec.name} {spec.dtype} {_shape(spec)}" for spec in specs)
