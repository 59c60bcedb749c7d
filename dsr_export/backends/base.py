"""What every runtime offers: a runner that is a context manager with `infer(dict) -> dict`."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Runner(Protocol):
    """A loaded model. `name` is the runtime's (`onnxruntime`, `tensorrt_rtx`, `torch`)."""

    name: str

    def __enter__(self) -> Runner: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def infer(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Named inputs to named outputs, batch first. Raises `ExportError` on a wrong name, shape or type."""
        ...


def as_denoiser(runner: Runner) -> Any:
    """The runner as the sampler's callable: inputs by name to the array of its first output."""

    def call(inputs: dict[str, Array]) -> Array:
        return np.asarray(next(iter(runner.infer(inputs).values())), np.float32)

    return call
