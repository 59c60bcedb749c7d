"""The FP32 PyTorch module as a `Runner`: the reference that everything else is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from dsr_export.backends.base import Array
from dsr_export.backends.inputs import check_inputs
from dsr_export.errors import ExportError, RunnerError
from dsr_export.subject import Subject


class TorchRunner:
    """Runs `subject.module` as it is, in inference mode on the CPU; the outputs are named by `subject.outputs`."""

    name = "torch"

    def __init__(self, subject: Subject) -> None:
        if subject.module.training:
            raise ExportError(f"the module of {subject.name} is in training mode", hint="call module.eval() first")
        self._subject = subject

    def __enter__(self) -> TorchRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def infer(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Named inputs to named outputs, batch first; raises what `Runner.infer` does."""
        import torch

        with torch.inference_mode():
            return self._called(inputs)

    def infer_otherwise(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """As `infer`, each number on the way a step of FP32 off."""
        import torch

        from dsr_export.subjects.other_rounding import OtherRounding

        with torch.no_grad(), OtherRounding():  # which sees the parts of an operation, as inference mode does not
            return self._called(inputs)

    def _called(self, inputs: dict[str, Array]) -> dict[str, Array]:
        import torch

        from dsr_export.tracing.traced_path import traced_path

        fed = check_inputs(inputs, self._subject.inputs)
        with traced_path():
            made = self._subject.module(*(torch.from_numpy(array.copy()) for array in fed.values()))
        results = self._in_order(made)
        return {spec.name: _numpy(value, spec.name) for spec, value in zip(self._subject.outputs, results, strict=True)}

    def _in_order(self, made: Any) -> tuple[Any, ...]:
        """A tensor, a sequence, or a mapping with the outputs' names."""
        outputs = self._subject.outputs
        if isinstance(made, Mapping):
            made = tuple(made.get(spec.name) for spec in outputs)
        results = tuple(made) if isinstance(made, (tuple, list)) else (made,)
        if len(results) != len(outputs):
            raise RunnerError(f"{self._subject.name} returns {len(results)} outputs, and {len(outputs)} are declared")
        return results


def _numpy(value: Any, name: str) -> Array:
    import torch

    if not isinstance(value, torch.Tensor):
        raise RunnerError(f"output '{name}' is {type(value).__name__}, not a tensor")
    if value.is_floating_point() and value.dtype != torch.float32:
        raise RunnerError(f"output '{name}' is {value.dtype}, and the reference is FP32", hint="use module.float()")
    array: Array = value.detach().numpy()
    return array
