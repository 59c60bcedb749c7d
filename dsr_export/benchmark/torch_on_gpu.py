"""PyTorch itself on the GPU, as contestants of a comparison: eager and compiled, without and with CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import SimpleNamespace, TracebackType
from typing import Any

import torch
from torch import nn

from dsr_export.backends.base import Array
from dsr_export.benchmark.gpu_race import GpuContestant
from dsr_export.errors import ExportError
from dsr_export.subject import Subject

DEVICE = "cuda"


class TorchOnGpu:
    """`call`, a module on the GPU or what was compiled of it; in half precision where `half`, as users run it."""

    name = "torch"

    def __init__(self, call: Callable[..., Any], *, half: bool) -> None:
        self._call, self._half = call, half
        self.replays = SimpleNamespace(of={})  # it launches no graph of ours

    def __enter__(self) -> TorchOnGpu:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call = None  # type: ignore[assignment]  # its weights go with the last one who has it

    def upload(self, array: Array) -> torch.Tensor:
        return torch.from_numpy(array.copy()).to(DEVICE)

    def infer(self, inputs: Mapping[str, Array]) -> list[Array]:
        made = self.infer_on_device({name: self.upload(array) for name, array in inputs.items()})
        return [each.float().cpu().numpy() for each in made]

    def infer_on_device(self, inputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """The outputs in the module's order. Its parts that keep FP32 themselves stay so."""
        wide = [self._narrowed(tensor) for tensor in inputs.values()]
        with torch.inference_mode(), torch.autocast(DEVICE, torch.float16, enabled=self._half):
            made = self._call(*wide)
        return list(_tensors(made))

    def milliseconds(self, work: Callable[[], object]) -> float:
        """Between two events of the GPU."""
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        first.record()
        work()
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last))

    def _narrowed(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.half() if self._half and tensor.is_floating_point() else tensor


def torch_contestants(name: str, subject: Subject, *, half: bool) -> list[GpuContestant]:
    """`subject` eager, compiled, and compiled with CUDA graphs, with one copy of its weights, without TF32.

    Raises:
        ExportError: the installed torch sees no GPU.
    """
    if not torch.cuda.is_available():
        raise ExportError(
            f"the installed torch {torch.__version__} sees no GPU, and '{name}' is a PyTorch model",
            hint="install a torch with CUDA, or compare bundles alone",
        )
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    module = _on_gpu(subject.module, half)
    calls: dict[str, Callable[..., Any]] = {
        "eager": module,
        "torch.compile": torch.compile(module),
        "torch.compile, CUDA graphs": torch.compile(module, mode="reduce-overhead"),
    }
    return [_contestant(f"{name} {how}", call, half) for how, call in calls.items()]


def _contestant(name: str, call: Callable[..., Any], half: bool) -> GpuContestant:
    """What torch cannot compile, or capture, is said in that row."""
    opened = partial(TorchOnGpu, call, half=half)
    return GpuContestant(name=name, open=lambda graphs: opened(), graphs=("never",), may_raise=(RuntimeError,))


def _on_gpu(module: nn.Module, half: bool) -> nn.Module:
    return module.to(DEVICE, torch.float16 if half else torch.float32)


def _tensors(made: Any) -> Iterator[torch.Tensor]:
    """A tensor, a sequence, or a mapping of them."""
    if isinstance(made, torch.Tensor):
        yield made
    else:
        yield from made.values() if isinstance(made, Mapping) else made
