"""What every runtime offers: a runner that is a context manager with `infer(dict) -> dict`."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol, runtime_checkable

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
        """Named inputs to named outputs, batch first.

        Raises:
            ExportError: a wrong name, shape or type.
            RunnerError: the runtime failed on inputs that fit.
        """
        ...


@runtime_checkable
class RoundsOtherwise(Protocol):
    """A runner that can also round as another runtime might."""

    def infer_otherwise(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """As `infer`, each number on the way a step of FP32 off. It may raise anything: a model need not allow it."""
        ...


def as_denoiser(runner: Runner) -> Any:
    """The runner as the sampler's callable: inputs by name to the array of its first output."""

    def call(inputs: dict[str, Array]) -> Array:
        return np.asarray(next(iter(runner.infer(inputs).values())), np.float32)

    return call
