"""Runs a denoiser of any class with drawn inputs, to learn of it what its class does not say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dsr_export.example_rows.drawn import Draw, draw_inputs
from dsr_export.families.diffusers.general.adapter import GeneralDenoiser
from dsr_export.families.diffusers.general.sizes import SIZES
from dsr_export.spec import Stream
from dsr_export.subjects.module import raised_by
from graphs.artifacts import TensorSpec

COMPARE = (
    "compare config.json with the model's own, and the sizes with those that its pipeline gives it: "
    f"{', '.join(f'--option {name}=' for name in SIZES)}"
)
"""What to do where diffusers' own code raises: it takes any batch, so that entries or sizes do not fit each other."""


class Reached(BaseException):
    """A run has come to where all is known that it was for; no `except Exception` of a model's stops it."""


@dataclass(frozen=True)
class DrawnRuns:
    """Calls of `module` with inputs that are drawn, the same each time for a seed."""

    module: GeneralDenoiser
    inputs: Sequence[TensorSpec]
    draws: Mapping[str, Draw]

    def run(self, count: int, other: Stream | None = None, seed: int = 0) -> Any:
        """One call with `count` rows; those of the stream `other` come from another seed."""
        rows = draw_inputs(self.inputs, count, seed=seed, draws=self.draws)
        if other is not None:
            changed = draw_inputs(self.inputs, count, seed=seed + 1, draws=self.draws)
            rows |= {each.name: changed[each.name] for each in self.inputs if self._stream_of(each) == other}
        return self.module(*(torch.from_numpy(row) for row in rows.values()))

    def untouched(self, count: int, class_name: str) -> Any:
        """`run` of a module that nothing was done to yet: where it fails, that is the model. Raises ExportError."""
        try:
            return self.run(count)
        except Exception as error:  # diffusers' code may raise anything
            raise raised_by(f"{class_name} at batch {count}", error, COMPARE) from error

    def _stream_of(self, spec: TensorSpec) -> Stream | None:
        """Which stream's tokens an input becomes: the latent's, or a prompt's; None for times, masks and vectors."""
        if spec.name == next((each.name for each in self.inputs if each.name == "hidden_states"), self.inputs[0].name):
            return "image"
        return "text" if len(spec.shape) > 2 or spec.dtype == "int64" else None
