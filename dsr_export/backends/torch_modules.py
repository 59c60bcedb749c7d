"""What every module of a PyTorch subject returns, in samples: the reference of a site-by-site comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from dsr_export.backends.torch import TorchRunner
from dsr_export.config import BatchRange
from dsr_export.parity.module_outputs import ModuleOutput
from dsr_export.parity.tap_inputs import in_batches
from dsr_export.subject import Subject
from graphs.tap_samples import OUTER_VALUES, Sample

if TYPE_CHECKING:
    from torch import nn

Array = npt.NDArray[Any]


def record_modules(subject: Subject, inputs: Mapping[str, Array], batch: BatchRange) -> list[ModuleOutput]:
    """Calls of all modules by all their names, in order, for the images in `inputs`."""
    shapes: list[tuple[str, tuple[int, ...]]] = []
    with TorchRunner(subject) as runner, _hooks(subject.module) as calls:

        def infer(fed: dict[str, Array]) -> dict[str, Array]:
            calls.clear()
            runner.infer(fed)
            shapes[:] = [(call.path, call.shape) for call in calls]
            parts = enumerate(call.sample for call in calls)
            return {f"{part}{i}": getattr(sample, part) for i, sample in parts for part in ("values", "norms")}

        made = in_batches(infer, inputs, batch)
    return [
        ModuleOutput(path, shape, Sample(made[f"values{i}"], made[f"norms{i}"]))
        for i, (path, shape) in enumerate(shapes)
    ]


@contextmanager
def _hooks(module: nn.Module) -> Iterator[list[ModuleOutput]]:
    """The list grows by one entry per call, tensor and name of a module while the context is open."""
    calls: list[ModuleOutput] = []
    names: dict[nn.Module, list[str]] = {}
    for name, each in module.named_modules(remove_duplicate=False):
        names.setdefault(each, []).append(name)
    handles = [each.register_forward_hook(_hook(paths, calls)) for each, paths in names.items() if paths != [""]]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _hook(paths: list[str], calls: list[ModuleOutput]) -> Callable[..., None]:
    import torch

    def record(_: nn.Module, __: Any, made: Any) -> None:
        for value in made if isinstance(made, (tuple, list)) else (made,):
            if not (isinstance(value, torch.Tensor) and value.is_floating_point() and 2 <= value.ndim <= 4):
                continue
            if all(value.shape):
                array = value.detach().float().numpy()
                sample = Sample.of(array, OUTER_VALUES)
                calls.extend(ModuleOutput(path, tuple(array.shape[1:]), sample) for path in paths)

    return record
