"""Draws and measures parts; each is kept in the cache when it is done, so that what was interrupted goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.evaluation.drawers import Drawer, Drawn
from dsr_export.evaluation.joined_parts import AT_ONCE, CANDIDATE, PAIRS, REFERENCE, SHOWN, joined, worst_places
from dsr_export.evaluation.panel import Panel
from dsr_export.evaluation.parts import Part
from dsr_export.images.thumbnails import thumbnails
from dsr_export.progress import Reporter
from dsr_export.storage.cache import CachedStage, StageCache
from dsr_export.storage.npz_file import read_npz

Array = npt.NDArray[Any]
Measured = Mapping[str, Array]
"""What was measured of a part, by name: see `Measuring.part`."""
STAGE, FILE = "evaluation-part", "part.npz"


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How parts are measured. `key` (JSON values) says everything that their figures depend on."""

    candidate: Drawer
    reference: Drawer | None
    drawn: Drawn
    classes: int
    panel: Panel
    key: Mapping[str, Any]

    def part(self, part: Part) -> dict[str, Array]:
        """`candidate/...` and `reference/...` as `Panel.of_side` names them, `pairs/...` as `of_pairs`.

        `first` is the part's first picture. `shown/index` [k], `shown/candidate` and `shown/reference` [k, h, w, C] are
        the pictures that differ most, small; without a reference the first. Drawn and measured `AT_ONCE` by `AT_ONCE`:
        a part grows with the number of pictures, and memory does not.
        """
        starts = range(part.first, part.first + part.count, AT_ONCE)
        ends = part.first + part.count
        pieces = (self._piece(Part(part.index, first, min(AT_ONCE, ends - first))) for first in starts)
        return reduce(joined, pieces)

    def _piece(self, part: Part) -> dict[str, Array]:
        made = self.candidate(part)
        other = None if self.reference is None else self.reference(part)
        labels, prompts = self.drawn.labels(part, self.classes), self._prompts(part)
        found = _named(CANDIDATE, self.panel.of_side(made, labels, prompts))
        if other is not None:
            found |= _named(REFERENCE, self.panel.of_side(other, labels, prompts))
            found |= _named(PAIRS, self.panel.of_pairs(made, other))
        shown = worst_places(found, part.count)
        found |= {f"{SHOWN}index": shown + part.first, f"{SHOWN}candidate": thumbnails(made[shown])}
        found["first"] = np.array(part.first)
        if other is not None:
            found[f"{SHOWN}reference"] = thumbnails(other[shown])
        return found

    def _prompts(self, part: Part) -> Sequence[str]:
        return self.drawn.texts(part) if self.drawn.prompts else ()


def measure(measuring: Measuring, parts: Sequence[Part], cache: StageCache, shown: Reporter) -> list[CachedStage]:
    """Every part, drawn now or found in the cache."""
    stages, total = [], sum(part.count for part in parts)
    done = 0
    with shown.stage("evaluate") as bar:
        for part in parts:
            stages.append(cache.run(STAGE, part_key(measuring.key, part), partial(_write, measuring, part)))
            done += part.count
            bar(done, total)
    return stages


def read_part(stage: CachedStage) -> dict[str, Array]:
    """What `Measuring.part` gave."""
    return read_npz(stage.path / FILE, hint="run the command again")


def part_key(key: Mapping[str, Any], part: Part) -> dict[str, Any]:
    """JSON values: of a part's entry in the cache, where `key` is that of the evaluation."""
    return {**key, "first": part.first, "count": part.count}


def _write(measuring: Measuring, part: Part, folder: Path) -> None:
    np.savez(folder / FILE, **measuring.part(part))  # type: ignore[arg-type]


def _named(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {f"{prefix}{name}": value for name, value in arrays.items()}
