"""What every module of a PyTorch subject returns, in samples: the reference of a site-by-site comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dsr_export.config import BatchRange
from dsr_export.parity.batch_calls import in_batches
from dsr_export.sites.module_outputs import ModuleOutput
from dsr_export.subject import Subject
from dsr_export.subjects.torch_runner import TorchRunner
from graphs.observe.tap_samples import Sample

if TYPE_CHECKING:
    from torch import nn

Array = npt.NDArray[Any]


def record_modules(subject: Subject, inputs: Mapping[str, Array], batch: BatchRange, values: int) -> list[ModuleOutput]:
    """Calls of all modules by all their names, in order, for the images in `inputs`; about `values` of each image."""
    shapes: list[tuple[str, tuple[int, ...]]] = []
    with TorchRunner(subject) as runner, _hooks(subject.module, values) as calls:

        def infer(fed: dict[str, Array]) -> dict[str, Array]:
            calls.clear()
            calls.rows = len(next(iter(fed.values())))
            runner.infer(fed)
            shapes[:] = [(call.path, call.shape) for call in calls]
            parts = enumerate(call.sample for call in calls)
            return {f"{part}{i}": getattr(sample, part) for i, sample in parts for part in ("values", "norms")}

        made = in_batches(infer, inputs, batch)
    return [
        ModuleOutput(path, shape, Sample(made[f"values{i}"], made[f"norms{i}"]))
        for i, (path, shape) in enumerate(shapes)
    ]


def replaced_tokens(subject: Subject, inputs: Mapping[str, Array], batch: BatchRange) -> Array:
    """How many tokens of each image every replacement of the model changes, [images, sites]."""
    from dsr_export.registers import RecursiveReplacement

    counts: list[Array] = []

    def record(_: nn.Module, given: Any, made: Any) -> None:
        counts.append((given[0] != made).any(dim=-1).sum(dim=-1).numpy())

    modules = [each for each in subject.module.modules() if isinstance(each, RecursiveReplacement)]
    handles = [each.register_forward_hook(record) for each in modules]

    def infer(fed: dict[str, Array]) -> dict[str, Array]:
        counts.clear()
        runner.infer(fed)
        return {"counts": np.stack(counts, axis=1)}

    rows = len(next(iter(inputs.values())))
    if not modules:
        return np.zeros((rows, 0), np.int64)
    try:
        with TorchRunner(subject) as runner:
            return in_batches(infer, inputs, batch)["counts"]
    finally:
        for handle in handles:
            handle.remove()


class _Calls(list[ModuleOutput]):
    """What modules returned for `rows` images."""

    rows = 0


@contextmanager
def _hooks(module: nn.Module, values: int) -> Iterator[_Calls]:
    """The list grows by one entry per call, tensor and name of a module while the context is open."""
    calls = _Calls()
    names: dict[nn.Module, list[str]] = {}
    for name, each in module.named_modules(remove_duplicate=False):
        names.setdefault(each, []).append(name)
    handles = [
        each.register_forward_hook(_hook(paths, calls, values)) for each, paths in names.items() if paths != [""]
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _hook(paths: list[str], calls: _Calls, values: int) -> Callable[..., None]:
    import torch

    def record(_: nn.Module, __: Any, made: Any) -> None:
        for value in made if isinstance(made, (tuple, list)) else (made,):
            if not (isinstance(value, torch.Tensor) and value.is_floating_point() and 2 <= value.ndim <= 4):
                continue
            if all(value.shape) and len(value) == calls.rows:  # else a table that is the same for each image
                array = value.detach().float().numpy()
                sample = Sample.of(array, values)
                calls.extend(ModuleOutput(path, tuple(array.shape[1:]), sample) for path in paths)

    return record
