"""How far a candidate is from the reference at every site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from dsr_export.backends.base import Runner
from dsr_export.config import BatchRange
from dsr_export.parity.batch_calls import in_batches
from dsr_export.parity.decibels import IDENTICAL_DB
from dsr_export.parity.metrics import compare
from dsr_export.sites.tap_file import ReferenceTap, Taps
from graphs.observe.tap_samples import Sample
from graphs.observe.taps import TappedModel

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class SiteError:
    """`snr_db` of the worst image, -300 where nothing could be measured: then `problem` says why."""

    reference: ReferenceTap
    sample: Sample | None
    snr_db: float
    problem: str | None = None
    lost: bool = False

    def as_dict(self) -> dict[str, Any]:
        """As in the report of a build."""
        site = self.reference.site
        return {"site": site.group, "module": site.module, "tensor": site.tensor, "snr_db": self.snr_db}


def site_errors(runner: Runner, tapped: TappedModel, taps: Taps, batch: BatchRange) -> list[SiteError]:
    """Of all sites, in their order. Raises `RunnerError` where the candidate does not run at all."""
    with runner:
        made = in_batches(runner.infer, taps.inputs, batch)
    return [_error(tap, made, tapped.outputs.get(i), tapped.lost.get(i)) for i, tap in enumerate(taps.taps)]


def curve(errors: Sequence[SiteError]) -> list[dict[str, Any]]:
    """The error after each group: the outer sites, in order, for a chart."""
    rows = [error.as_dict() for error in errors if error.reference.site.outer]
    return [{key: row[key] for key in ("site", "module", "snr_db")} for row in rows]


def _error(tap: ReferenceTap, made: Mapping[str, Array], names: tuple[str, str] | None, lost: str | None) -> SiteError:
    if names is None:
        return SiteError(tap, None, -IDENTICAL_DB, lost, lost=True)
    sample = Sample(*(made[name] for name in names))
    parts = [compare(tap.sample.values, sample.values), compare(tap.sample.norms, sample.norms)]
    problem = next((part.problem for part in parts if part.problem is not None), None)
    measured = [part.snr_db for part in parts if part.snr_db is not None]
    return SiteError(tap, sample, -IDENTICAL_DB if problem is not None else min(measured), problem)
