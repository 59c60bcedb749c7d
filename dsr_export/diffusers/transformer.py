"""A bundle in the place of a pipeline's transformer: the same call, the same outputs, other kernels."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dsr_export.diffusers.arguments import graph_inputs
from dsr_export.diffusers.matching import eager
from dsr_export.diffusers.part import AttachedPart
from dsr_export.diffusers.recording import Recording
from dsr_export.diffusers.running import Running
from dsr_export.storage.output_target import check_target


class AttachedTransformer(AttachedPart):
    """Called as the transformer that it stands for."""

    def __init__(self, original: nn.Module, running: Running) -> None:
        super().__init__(original, running)
        self._signature = inspect.signature(type(eager(original)).forward)
        self._recordings: list[Recording] = []

    @contextlib.contextmanager
    def recorded(self, file: Path | str) -> Iterator[None]:
        """At the end of the block, what the graph was given in it lies in `file`: data for `build --calibration`.

        Raises ExportError where the file can't be written, or nothing was called.
        """
        check_target(Path(file))
        self._recordings.append(made := Recording())
        try:
            yield
        finally:
            self._recordings.remove(made)
        made.write(Path(file))

    @contextlib.contextmanager
    def cache_context(self, name: str) -> Iterator[None]:
        """Caches of diffusers between steps do not apply."""
        yield

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the original's, with `return_dict`; the batch is that of the latent. Raises what `attach` says."""
        (running,) = self._running
        running.check_open()
        called = self._signature.bind(None, *args, **kwargs).arguments
        inputs = graph_inputs(running, dict(list(called.items())[1:]))
        for each in self._recordings:
            each.add(inputs)
        latent = next(each for each in called.values() if isinstance(each, Tensor))
        made = tuple(each.to(latent.device, latent.dtype) for each in running(inputs).values())
        if called.get("return_dict", True) is False:
            return made
        from diffusers.models.modeling_outputs import Transformer2DModelOutput

        return Transformer2DModelOutput(sample=made[0])
