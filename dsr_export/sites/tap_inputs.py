"""The images that taps are recorded for: some of a golden batch, and some on the way of the golden trajectory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.parity.golden.vectors import OWN, Golden
from dsr_export.sampling import SamplerSpec

Array = npt.NDArray[Any]


def candidate_inputs(golden: Golden, sampler: SamplerSpec | None) -> list[dict[str, Array]]:
    """Groups of images of which taps take some each: the largest golden batch, and in front of it the model's own rows;
    of a trajectory, noise and the middle.

    Tokens are not replaced at all times: some models do it in noise only.
    """
    drawn = dict(golden.cases[max(golden.cases)].inputs)
    for own in (golden.further[name].inputs for name in OWN if name in golden.further):
        drawn = {name: np.concatenate([own[name], values]) for name, values in drawn.items()}
    walk = golden.trajectory
    if sampler is None or walk is None or len(walk.states) < 2:
        return [drawn]
    middle = len(walk.states) // 2
    noise = np.asarray(walk.noise * sampler.noise_scale)
    inside = [(noise, sampler.grid[0]), (walk.states[middle - 1], sampler.grid[middle])]
    return [drawn, *(_step(drawn, x, float(t), walk.labels) for x, t in inside)]


def _step(like: Mapping[str, Array], x: Array, t: float, labels: Array) -> dict[str, Array]:
    """The inputs of one step, in the order of `like`."""
    step: dict[str, Array] = {
        "x": x.astype(np.float32),
        "t": np.full(len(x), t, np.float32),
        "y": labels.astype(np.int64),
    }
    return {name: step[name] for name in like}


def chosen_rows(replaced: Array, count: int) -> list[int]:
    """`count` rows of `replaced` [images, sites], the tokens replaced at each site: as many sites as can be, ascending.

    A replacement that replaces nothing cannot be seen to be wrong. Without sites, and among equals, the first rows.
    """
    rows: list[int] = []
    unseen = np.ones(replaced.shape[1], bool)
    while len(rows) < min(count, len(replaced)):
        gains = [(int((unseen & (row > 0)).sum()), int(row.sum()), -i) for i, row in enumerate(replaced)]
        best = -max(gain for gain in gains if -gain[2] not in rows)[2]
        rows.append(best)
        unseen &= replaced[best] == 0
    return sorted(rows)


def taken(groups: Sequence[Mapping[str, Array]], rows: Sequence[Sequence[int]]) -> dict[str, Array]:
    """The images `rows` of each group, as one batch."""
    return {
        name: np.concatenate([group[name][list(which)] for group, which in zip(groups, rows, strict=True)])
        for name in groups[0]
    }
