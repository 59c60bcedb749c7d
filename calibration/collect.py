"""Collecting statistics: drives an injected model over calibration calls and hands every activation to its observer."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from calibration.places import TokenPlaces
from calibration.policy import Selection
from calibration.sections import Sections
from calibration.shelf import Shelf
from calibration.stats import BUCKETS, ActivationStats
from calibration.token_roles import RegisterRows

Array = npt.NDArray[Any]
Progress = Callable[[int, int], None]
Infer = Callable[[dict[str, Array]], Mapping[str, Array]]
LOW_NOISE_WEIGHT = 2.0  # outliers weaken as noise rises, and errors near the data are not undone by later steps


@dataclass(frozen=True)
class Call:
    """One call of the model. `samples` [B] are ids that depend on neither order nor batch; `progress` [B] goes from
    noise (0) to data (1). `section` is that of the data which all rows belong to. `place`, of data without times, is
    where in it the call lies, from 0 to 1. `prompt_mask` [B, T] says which tokens are padding (0) where no input does.
    """

    inputs: dict[str, Array]
    samples: Array
    progress: Array
    section: int = 0
    place: float | None = None
    prompt_mask: Array | None = None

    @property
    def buckets(self) -> Array:
        """The timestep bucket of each row, [B]."""
        return np.minimum((self.progress * BUCKETS).astype(np.int64), BUCKETS - 1)

    @property
    def weights(self) -> Array:
        """How much each row counts, [B]."""
        return np.where(self.buckets == BUCKETS - 1, LOW_NOISE_WEIGHT, 1.0)


class CalibrationData(Protocol):
    """Inputs to calibrate with."""

    @property
    def sections(self) -> Sections:
        """What can be walked apart."""
        ...

    def drive(self, answer: Callable[[Call], Array], progress: Progress, only: Container[int] | None = None) -> None:
        """Makes every call, or those of the sections `only`, each section's one after the other.

        `answer` returns the model's first output (a sampler goes on from it).
        """
        ...


def new_stats(
    selection: Selection,
    registers: RegisterRows,
    *,
    hessians: bool,
    with_nan: bool = False,
    places: TokenPlaces | None = None,
    sections: int = 1,
    shelf: Shelf | None = None,
) -> dict[str, ActivationStats]:
    """An observer for each activation of the selected GEMMs, by name; the rest as `ActivationStats` has it.

    Registers and places are known only where an axis of its own counts tokens.
    """
    known = TokenPlaces() if places is None else places
    return {
        str(gemm.activation.name): ActivationStats(
            name=str(gemm.activation.name),
            width=gemm.in_features,
            tokens=gemm.rows,
            registers=registers if gemm.has_token_axis else RegisterRows(),
            with_hessian=hessians,
            with_nan=with_nan,
            batch_axis=gemm.batch_axis,
            places=known if gemm.has_token_axis else TokenPlaces(),
            sections=sections,
            shelf=shelf,
        )
        for gemm in selection.all
    }


def observe(stats: Mapping[str, ActivationStats], outputs: Mapping[str, Array], call: Call) -> None:
    """Hands what one call made to the observers."""
    for name, each in stats.items():
        hidden = each.places.hidden(call.inputs) if call.prompt_mask is None else call.prompt_mask
        each.observe(outputs[name], call.samples, call.buckets, call.weights, hidden, section=call.section)
