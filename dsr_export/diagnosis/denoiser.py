"""Diagnosis of a denoiser: where outlier tokens arise, and which replacement sites remove them.

Walks the sampler without replacement; finds each layer's threshold; walks again with the model's own sites, if it has
any, and with the proposed ones. A proposed site that replaced nothing is dropped: it passed every token unchanged, so
the walk without it is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dsr_export.diagnosis.models.denoiser import DenoiserTokens
from dsr_export.diagnosis.thresholds import Limit, find_limit
from dsr_export.diagnosis.walk import Measured, WalkSettings, shortened, walk
from dsr_export.progress import Reporter
from dsr_export.spec import ReplaceSpec
from dsr_export.subject import Subject

Array = npt.NDArray[Any]
RunName = Literal["off", "own", "proposed"]
ROUNDS = 2  # the second finds what the first uncovered by moving the median


@dataclass(frozen=True)
class Run:
    """One walk: without sites (`off`), with the model's own, or with the proposed ones."""

    name: RunName
    sites: tuple[int, ...]
    measured: Measured
    ratios: Array
    """The share of patch tokens above their layer's limit, [layers, steps]."""


@dataclass(frozen=True, kw_only=True)
class DenoiserDiagnosis:
    """What was found. `limits[l]` is None where layer l has no outliers; `replace` is what to write into dsr.toml."""

    subject: Subject
    settings: WalkSettings
    times: tuple[float, ...]
    limits: tuple[Limit | None, ...]
    runs: tuple[Run, ...]
    replace: tuple[ReplaceSpec, ...]
    patches: int
    registers: int

    @property
    def off(self) -> Run:
        return self.runs[0]

    @property
    def outlier_layers(self) -> list[int]:
        return [layer for layer, limit in enumerate(self.limits) if limit is not None]

    def run(self, name: RunName) -> Run | None:
        """The walk called `name`, if there was one."""
        return next((run for run in self.runs if run.name == name), None)

    def outlier_patches(self, run: Run, layer: int) -> Array:
        """Which patch positions [N] exceeded the layer's limit in any image at any time."""
        limit = self.limits[layer]
        peaks = run.measured.norms.peaks[layer].max(axis=0)
        return np.flatnonzero(peaks > run.measured.norms.bins.edges[limit.edge]) if limit else np.array([], int)


def diagnose_denoiser(
    subject: Subject, model: DenoiserTokens, settings: WalkSettings, reporter: Reporter
) -> DenoiserDiagnosis:
    """Two or three walks of `settings.steps` model calls. The model is left as it was."""
    with model.sites(()), reporter.stage("without replacement") as bar:
        off = walk(subject, model, settings, bar)
    limits = tuple(find_limit(counts, off.norms.bins) for counts in off.norms.by_layer())
    runs = [Run("off", (), off, _ratios(off, limits))]
    own = subject.dsr.denoiser.replace
    if own:
        with model.own_sites(), reporter.stage("with the model's sites") as bar:
            runs.append(_run("own", own, walk(subject, model, settings, bar), limits))
    proposed = propose(limits[: model.replaceable], registers=model.register_count)
    if proposed:
        with model.sites(proposed), reporter.stage("with the proposed sites") as bar:
            measured = walk(subject, model, settings, bar)
        proposed = tuple(group for group in proposed if any(measured.replaced.get(layer) for layer in group.layers))
        runs.append(_run("proposed", proposed, measured, limits))
    return DenoiserDiagnosis(
        subject=subject,
        settings=settings,
        times=tuple(float(t) for t in shortened(subject, settings).grid[:-1]),
        limits=limits,
        runs=tuple(runs),
        replace=proposed,
        patches=model.patches,
        registers=model.register_count,
    )


def propose(limits: Sequence[Limit | None], *, registers: int) -> tuple[ReplaceSpec, ...]:
    """One site behind each layer that has outliers, under the median rule with that layer's limit.

    Without registers to choose from, tokens are clipped to the threshold.
    """
    return tuple(
        ReplaceSpec(
            layers=(layer,),
            rule="median",
            threshold=limit.value,
            rounds=ROUNDS,
            choice="nearest" if registers else "clip",
        )
        for layer, limit in enumerate(limits)
        if limit is not None
    )


def _run(name: RunName, groups: Sequence[ReplaceSpec], measured: Measured, limits: Sequence[Limit | None]) -> Run:
    return Run(name, tuple(sorted(layer for g in groups for layer in g.layers)), measured, _ratios(measured, limits))


def _ratios(measured: Measured, limits: Sequence[Limit | None]) -> Array:
    """By the limits of the walk without sites; where that had none, by the walk's own: sites may make new outliers."""
    norms = measured.norms
    edges: list[int | None] = []
    for limit, counts in zip(limits, norms.by_layer(), strict=True):
        found = limit or find_limit(counts, norms.bins)
        edges.append(None if found is None else found.edge)
    return norms.ratios(edges)
