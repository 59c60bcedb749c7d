"""A model whose output is its own next input, called again and again: on a GPU nothing leaves it in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dsr_export.backends.base import Array, Runner
from dsr_export.backends.device_tensor import DeviceRunner
from dsr_export.errors import ExportError

Progress = Callable[[int, int], None]


def device_runner(runner: Runner) -> DeviceRunner | None:
    """The runner, where it keeps tensors on a GPU."""
    able = all(hasattr(runner, name) for name in ("upload", "infer_on_device"))
    return runner if able else None  # type: ignore[return-value]  # it has just been looked at


def carried_through(
    runner: Runner,
    fixed: Mapping[str, Array],
    steps: Mapping[str, Array],
    carried: Mapping[str, str],
    progress: Progress = lambda done, of: None,
) -> dict[str, Array]:
    """The outputs of the last of several calls.

    Call i takes `fixed`, the rows i of `steps` (each `[calls, ...]`), and in place of `fixed[name]` what the call
    before made of the output `carried[name]`.

    On a runner that keeps tensors on its GPU everything is uploaded before the first call, and only the last outputs
    are read back.

    Raises:
        ExportError: no steps, or of different numbers; and what `infer` raises.
    """
    counts = {len(each) for each in steps.values()}
    if len(counts) != 1 or 0 in counts:
        raise ExportError(f"steps of {sorted(counts)} calls", hint="give one row for each call")
    gpu = device_runner(runner)
    upload: Callable[[Array], Any] = gpu.upload if gpu else lambda array: array
    infer: Callable[[dict[str, Any]], dict[str, Any]] = gpu.infer_on_device if gpu else runner.infer
    state = {name: upload(array) for name, array in fixed.items()}
    rows = {name: upload(array) for name, array in steps.items()}
    calls, made = counts.pop(), dict[str, Any]()
    for i in range(calls):
        made = infer({**state, **{name: each[i] for name, each in rows.items()}})
        state |= {name: made[output] for name, output in carried.items()}
        progress(i + 1, calls)
    return {name: each.numpy() if gpu else each for name, each in made.items()}
