"""A bundle's model that runs between tensors of torch, on the GPU without a copy to the host."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from dsr_export.backends.base import Runner
from dsr_export.backends.steps import device_runner
from dsr_export.bundle.manifest import Manifest
from dsr_export.bundle.reader import Bundle
from dsr_export.errors import ExportError

TRANSFORMER = "transformer"


class Running:
    """`bundle` in `runner`, until it is closed. `role` is the part of the pipeline that it stands for."""

    def __init__(self, role: str, bundle: Bundle, runner: Runner) -> None:
        self.role, self.bundle = role, bundle
        self._runner: Runner | None = runner

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    @property
    def device(self) -> torch.device:
        """Where inputs are wanted."""
        there = self._runner is not None and device_runner(self._runner) is not None
        return torch.device("cuda" if there else "cpu")

    def check_open(self) -> None:
        """Raises ExportError once it is closed."""
        if self._runner is None:
            raise ExportError("this bundle is detached from its pipeline", hint="attach() it again")

    def close(self) -> None:
        """Ends the runner, once."""
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.__exit__(None, None, None)

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs by name, where the model runs, of inputs that lie there in their types. Raises as the runner."""
        self.check_open()
        assert self._runner is not None
        given = {name: value.detach() for name, value in inputs.items()}  # others than torch take no gradients
        gpu = device_runner(self._runner)
        if gpu is not None:
            return {name: from_dlpack(each) for name, each in gpu.infer_on_device(given).items()}
        found = self._runner.infer({name: value.numpy() for name, value in given.items()})
        return {name: torch.from_numpy(value) for name, value in found.items()}

    def check_batch(self, batch: int) -> None:
        """Raises ExportError for a batch that the bundle was not built for."""
        sizes = self.manifest.batch_range()
        if sizes.min <= batch <= sizes.max:
            return
        wider = f"{min(sizes.min, batch)},{sizes.opt},{max(sizes.max, batch)}"
        hint = f"build with --component-batch {self.role}={wider}"
        if self.role == TRANSFORMER:
            hint = f"guidance doubles the batch of the prompts; build with --batch {wider}"
        elif self.role == "vae" and sizes.min == 1:
            hint += ", or take pictures one by one: pipe.vae.enable_slicing()"
        raise ExportError(
            f"the pipeline calls its {self.role} with a batch of {batch}, and the bundle takes {sizes.min} to "
            f"{sizes.max}",
            hint=hint,
        )
