"""Diagnosis of a pipeline: where outlier tokens of either stream arise, which they are, and which sites remove them.

As of other denoisers: a walk without replacement, thresholds from it, a walk with the model's own sites, if it has any,
and one with the proposed ones, of which those that replaced nothing are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.places import PLACES
from dsr_export.diagnosis.denoiser import ROUNDS, RunName
from dsr_export.diagnosis.streams.sites import Site, replacing, without_sites
from dsr_export.diagnosis.streams.walk import Drive, Measured, Walked
from dsr_export.diagnosis.threads import fitting_threads
from dsr_export.diagnosis.thresholds import Limit, find_limit
from dsr_export.families.diffusers.followed import followed_blocks, token_grid
from dsr_export.families.diffusers.general.blocks import Block
from dsr_export.progress import Reporter
from dsr_export.spec import ReplaceSpec, Stream
from dsr_export.subject import Subject

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class StreamRun:
    """One walk; `ratios` are the shares of a site's tokens above its limit, [steps]."""

    name: RunName
    measured: Measured
    ratios: dict[Site, Array]


@dataclass(frozen=True, kw_only=True)
class StreamDiagnosis:
    """What was found. `limits` is None where a site has no outliers; `replace` is what to write into dsr.toml."""

    subject: Subject
    walked: Walked
    blocks: tuple[Block, ...]
    grid: tuple[int, int, int]
    limits: dict[Site, Limit | None]
    runs: tuple[StreamRun, ...]
    replace: tuple[ReplaceSpec, ...]

    @property
    def off(self) -> StreamRun:
        return self.runs[0]

    @property
    def outlier_sites(self) -> list[Site]:
        return [site for site, limit in self.limits.items() if limit is not None]

    def run(self, name: RunName) -> StreamRun | None:
        """The walk called `name`, if there was one."""
        return next((run for run in self.runs if run.name == name), None)

    def role_counts(self, site: Site) -> dict[str, tuple[int, int]]:
        """Role -> how many of its tokens exceeded the site's limit, and how many there were; roles with none left out.

        Without replacement, all images and steps together.
        """
        limit, norms = self.limits[site], self.off.measured.norms[site]
        above = np.zeros(len(PLACES), int) if limit is None else norms.above(limit.edge)
        pairs = zip(PLACES, above.tolist(), norms.tokens().tolist(), strict=True)
        return {role: (count, tokens) for role, count, tokens in pairs if tokens}


def diagnose_streams(subject: Subject, drive: Drive, walked: Walked, said: Reporter) -> StreamDiagnosis:
    """Two or three walks, which `drive` makes and `walked` describes. The model is left as it was."""
    with fitting_threads(subject.module):
        with without_sites(subject.module):
            blocks, grid = followed_blocks(subject), token_grid(subject)

        def walked_with(stage: str, *contexts: AbstractContextManager[None], into: Measured) -> Measured:
            with ExitStack() as stack, said.stage(stage) as bar:
                for context in contexts:
                    stack.enter_context(context)
                drive(blocks, into, bar)
            return into

        module = subject.module
        off = walked_with("without replacement", without_sites(module), into=Measured(blocks, grid))
        limits = {site: find_limit(norms.total, norms.bins) for site, norms in off.norms.items()}
        runs = [_run("off", off, limits)]
        if subject.dsr.denoiser.replace:
            own = walked_with("with the model's sites", into=Measured(blocks, grid))
            runs.append(_run("own", own, limits))
        registers = getattr(module, "registers", None)
        proposed = propose(limits, registers=registers is not None)
        if proposed:
            made = Measured(blocks, grid)
            sites = replacing(blocks, proposed, registers, made.replaced)
            walked_with("with the proposed sites", without_sites(module), sites, into=made)
            proposed = tuple(group for group in proposed if made.norms[_site(group)].replaced)
            runs.append(_run("proposed", made, limits))
    return StreamDiagnosis(
        subject=subject,
        walked=walked,
        blocks=blocks,
        grid=grid,
        limits=limits,
        runs=tuple(runs),
        replace=proposed,
    )


def propose(limits: dict[Site, Limit | None], *, registers: bool) -> tuple[ReplaceSpec, ...]:
    """One site behind each block and stream that has outliers, under the median rule with its own limit.

    The image's take the nearest of the model's registers, where there are any; else tokens are clipped.
    """
    return tuple(
        ReplaceSpec(
            layers=(layer,),
            rule="median",
            threshold=limit.value,
            rounds=ROUNDS,
            choice="nearest" if registers and stream == "image" else "clip",
            stream=stream,
        )
        for (layer, stream), limit in limits.items()
        if limit is not None
    )


def _site(group: ReplaceSpec) -> Site:
    return group.layers[0], group.stream


def _run(name: RunName, measured: Measured, limits: dict[Site, Limit | None]) -> StreamRun:
    """By the limits of the walk without sites; where that had none, by the walk's own: sites may make new outliers."""
    ratios = {}
    for site, norms in measured.norms.items():
        limit = limits[site] or find_limit(norms.total, norms.bins)
        ratios[site] = np.zeros(len(norms.steps)) if limit is None else norms.ratios(limit.edge)
    return StreamRun(name, measured, ratios)


def sites_by_stream(sites: Sequence[Site]) -> dict[Stream, list[int]]:
    """Stream -> its layers, for a sentence or a chart."""
    found: dict[Stream, list[int]] = {}
    for layer, stream in sites:
        found.setdefault(stream, []).append(layer)
    return found
