"""A model whose outputs are its own next inputs, called again and again: on a GPU nothing leaves it in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dsr_export.backends.base import Array, Runner
from dsr_export.backends.cuda.device_tensor import DeviceRunner, DeviceTensor

Call = Callable[[dict[str, Any]], Mapping[str, Any]]


def device_runner(runner: Runner) -> DeviceRunner | None:
    """The runner, where it keeps tensors on a GPU."""
    able = all(hasattr(runner, name) for name in ("upload", "infer_on_device"))
    return runner if able else None  # type: ignore[return-value]  # it has just been looked at


def stepping(runner: Runner) -> Call:
    """A call of `runner` whose outputs may be inputs of the next one; `np.asarray` makes an array of any.

    On a runner that keeps tensors on its GPU they stay there, and an array is uploaded once for as long as the same one
    is given: whoever changes it gives a copy.
    """
    gpu = device_runner(runner)
    return runner.infer if gpu is None else _OnGpu(gpu)


class _OnGpu:
    def __init__(self, gpu: DeviceRunner) -> None:
        self._gpu, self._uploaded = gpu, dict[str, tuple[Array, DeviceTensor]]()

    def __call__(self, inputs: dict[str, Any]) -> dict[str, DeviceTensor]:
        return self._gpu.infer_on_device({name: self._there(name, value) for name, value in inputs.items()})

    def _there(self, name: str, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        if name not in self._uploaded or self._uploaded[name][0] is not value:
            self._uploaded[name] = (value, self._gpu.upload(value))
        return self._uploaded[name][1]
