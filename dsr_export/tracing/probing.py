"""What a model's outputs are, learnt by running it: names, types, shapes, and that the batch is their first axis."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.errors import ExportError
from graphs.artifacts import TensorSpec

Array = npt.NDArray[Any]
Infer = Callable[[dict[str, Array]], Mapping[str, Array]]
Example = Callable[[int], dict[str, Array]]
Limits = tuple[int, int | None]


def probe_outputs(infer: Infer, example: Example, limits: Limits) -> tuple[TensorSpec, ...]:
    """Runs the model at one or, where `limits` leave it free, two batch sizes, and once more at the first.

    Raises:
        ExportError: an output without the batch as its first axis, whose shape depends on more than the batch, that is
            no float32, integer or bool, or that differs from one run to the next.
    """
    sizes = probed_sizes(limits)
    runs = {size: dict(infer(example(size))) for size in sizes}
    first = runs[sizes[0]]
    again = infer(example(sizes[0]))
    for name, value in first.items():
        if not np.array_equal(value, again[name], equal_nan=value.dtype.kind == "f"):
            raise ExportError(
                f"output '{name}' differs between two runs on the same inputs",
                hint="a model must not draw random numbers; make the noise an input",
            )
    return tuple(_spec(name, {size: made[name] for size, made in runs.items()}) for name in first)


def probed_sizes(limits: Limits) -> tuple[int, ...]:
    """One or two batch sizes; not 1, whose axis could not be told from a constant one."""
    low, high = limits
    start = max(low, 2) if high is None or high >= 2 else low
    return (start, start + 1) if high is None or start < high else (start,)


def _spec(name: str, made: Mapping[int, Array]) -> TensorSpec:
    value = next(iter(made.values()))
    if value.dtype.kind not in "biu" and value.dtype != np.float32:
        raise ExportError(f"output '{name}' is {value.dtype}, and the reference is FP32", hint="use float32 throughout")
    for size, each in made.items():
        if each.ndim == 0 or len(each) != size or each.shape[1:] != value.shape[1:]:
            raise ExportError(
                f"output '{name}' has the shape {list(each.shape)} at batch {size}: the batch is not its first axis",
                hint="return outputs [batch, ...] whose other axes are fixed",
            )
    batch = "batch" if len(made) > 1 else len(value)
    return TensorSpec(name=name, dtype=str(value.dtype), shape=(batch, *value.shape[1:]))
