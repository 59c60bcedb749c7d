"""Reference taps: the values that PyTorch modules return, at the tensors of the FP32 graph that hold them.

The graph itself gives the values that no module returns (the residual stream between two branches). Where the graph
does not make what a module returned, the conversion is wrong there; PyTorch's values stand, and parity will say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from dsr_export.parity.metrics import compare
from dsr_export.sites.module_outputs import ModuleOutput
from dsr_export.sites.tap_file import GRAPH, TORCH, ReferenceTap, Taps
from graphs.observe.sites import Site
from graphs.observe.tap_samples import Sample

Array = npt.NDArray[Any]
SAME_DB = 60.0  # SNR: two FP32 computations of one value agree to 100 dB, those of two values do not


def reference_taps(
    inputs: Mapping[str, Array], found: Sequence[tuple[Site, Sample]], modules: Sequence[ModuleOutput]
) -> Taps:
    """`found` are the sites of the FP32 graph with the values it makes there."""
    by_place: dict[tuple[str, tuple[int, ...]], list[Sample]] = {}
    for output in modules:
        by_place.setdefault((output.path, output.shape), []).append(output.sample)
    last = {_place(site): i for i, (site, _) in enumerate(found)}  # a module returns what it makes last
    taps = []
    for i, (site, sample) in enumerate(found):
        calls = [call for path in _enclosing(site) for call in by_place.get((path, site.shape), [])]
        truth = _matching(sample, calls)
        own = by_place.get(_place(site), [])
        if truth is None and len(own) == 1 and last[_place(site)] == i and not _is_table(own[0], sample):
            truth = own[0].first_channels(sample.values.shape[-1])  # the only call of its module: the graph is wrong
        taps.append(ReferenceTap(site, truth or sample, GRAPH if truth is None else TORCH))
    return Taps(inputs, taps)


def _place(site: Site) -> tuple[str, tuple[int, ...]]:
    return site.module, site.shape


def _enclosing(site: Site) -> list[str]:
    """Modules that may return the site's value: its own, those around it, and the group it ends."""
    parts = site.module.split(".")
    paths = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return list(dict.fromkeys([*paths, *([site.group] if site.outer else [])]))


def _is_table(returned: Sample, made: Sample) -> bool:
    """Whether a module returned the same for each image (a bias of positions), and the graph makes no such value."""

    def same(sample: Sample) -> bool:
        return bool((sample.values == sample.values[:1]).all())

    return same(returned) and not same(made)


def _matching(sample: Sample, calls: Sequence[Sample]) -> Sample | None:
    """The call that returned this very value."""
    for call in calls:
        truth = call.first_channels(sample.values.shape[-1])
        same = compare(truth.values, sample.values).snr_db
        norms = compare(truth.norms, sample.norms).snr_db
        if same is not None and norms is not None and min(same, norms) >= SAME_DB:
            return truth
    return None
