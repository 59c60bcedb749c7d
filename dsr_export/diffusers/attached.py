"""A bundle in the place of a pipeline's transformer: the same call, the same outputs, other kernels."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.dlpack import from_dlpack

from dsr_export.backends.base import Runner
from dsr_export.backends.runtime_names import Runtime
from dsr_export.backends.steps import device_runner
from dsr_export.bundle.reader import Bundle
from dsr_export.diffusers.arguments import graph_inputs
from dsr_export.diffusers.matching import check_same_model
from dsr_export.errors import ExportError

TRANSFORMER = "transformer"


def attach(pipe: Any, bundle: Bundle | Path | str, *, runtime: Runtime = "auto") -> AttachedTransformer:
    """Puts `bundle` in the place of `pipe.transformer`, of which it was built; returns what stands there now.

    It is called as before, in whatever type the pipeline works in, and gives its outputs in that type. The weights are
    the bundle's: a LoRA, a changed layer or other weights of the pipeline's own do not count any more. `detach()`, or
    the end of a `with` block, puts the original back.

    Raises:
        ExportError: a pipeline without a transformer, a bundle of another class or other sizes, or a runtime that it
            does not have here. Calls raise it for shapes and batches outside of the bundle, and for arguments that
            it was not built with.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(Path(bundle))
    original = vars(pipe).get(TRANSFORMER)
    if isinstance(original, AttachedTransformer):
        raise ExportError("a bundle is attached to this pipeline already", hint="detach() it first")
    if not isinstance(original, nn.Module):
        raise ExportError(f"{type(pipe).__name__} has no transformer", hint="attach() is for pipelines around one")
    check_same_model(opened, original)
    made = AttachedTransformer(pipe, original, opened, opened.runner(runtime))
    setattr(pipe, TRANSFORMER, made)
    return made


class AttachedTransformer(nn.Module):
    """Called as the transformer that it stands for, whose other attributes it has. It holds none of its weights."""

    def __init__(self, pipe: Any, original: nn.Module, bundle: Bundle, runner: Runner) -> None:
        super().__init__()
        self.bundle = bundle
        self._runner: Runner | None = runner
        self._held = (pipe, original)  # within a tuple: no submodule of this one
        self._signature = inspect.signature(type(original).forward)

    @property
    def original(self) -> nn.Module:
        """What stood here before."""
        return self._held[1]

    @property
    def config(self) -> Any:
        return self.original.config

    @property
    def dtype(self) -> torch.dtype:
        """What the pipeline works in."""
        found: torch.dtype = self.original.dtype  # type: ignore[assignment]
        return found

    @property
    def device(self) -> torch.device:
        """Where its inputs are wanted: tensors of the GPU are handed over without a copy."""
        there = self._runner is not None and device_runner(self._runner) is not None
        return torch.device("cuda" if there else "cpu")

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_"):
                raise
            return getattr(self.original, name)

    def __enter__(self) -> AttachedTransformer:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def detach(self) -> None:
        """Puts the original back and closes the runner, once."""
        runner, self._runner = self._runner, None
        if runner is not None:
            pipe, original = self._held
            setattr(pipe, TRANSFORMER, original)
            runner.__exit__(None, None, None)

    @contextlib.contextmanager
    def cache_context(self, name: str) -> Iterator[None]:
        """Caches of diffusers between steps do not apply."""
        yield

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the original's, with `return_dict`; the batch is that of the latent. Raises what `attach` says."""
        if self._runner is None:
            raise ExportError("this bundle is detached from its pipeline", hint="attach() it again")
        called = self._signature.bind(None, *args, **kwargs).arguments
        inputs = graph_inputs(self.bundle.manifest, dict(list(called.items())[1:]), self.device)
        latent = next(each for each in called.values() if isinstance(each, Tensor))
        made = tuple(each.to(latent.device, latent.dtype) for each in self._made(inputs))
        if called.get("return_dict", True) is False:
            return made
        from diffusers.models.modeling_outputs import Transformer2DModelOutput

        return Transformer2DModelOutput(sample=made[0])

    def _made(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        assert self._runner is not None
        gpu = device_runner(self._runner)
        if gpu is not None:
            return [from_dlpack(each) for each in gpu.infer_on_device(inputs).values()]
        found = self._runner.infer({name: value.numpy() for name, value in inputs.items()})
        return [torch.from_numpy(value) for value in found.values()]
