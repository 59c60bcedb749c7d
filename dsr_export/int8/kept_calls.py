"""A few calls with what FP32 made of them, to check the error budget with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.collect import Call

Array = npt.NDArray[Any]
KEPT_CALLS, KEPT_ROWS = 3, 4
_IN, _OUT, _AT = "in/", "out/", "at"


@dataclass(frozen=True)
class Kept:
    """Some rows of a call. `at` [3] are its distance from the place that it is kept for, its section, and its number
    there: the least is kept, so that the order in which calls come does not matter."""

    at: tuple[float, int, int]
    arrays: Mapping[str, Array]


@dataclass
class KeptCalls:
    """Those nearest to `KEPT_CALLS` evenly spaced places between noise and data, or of the data where it has no times,
    by place; of each up to `rows` rows, which are all where the model takes just as many."""

    by_place: dict[int, Kept] = field(default_factory=dict)
    rows: int = KEPT_ROWS
    _section: int = -1
    _number: int = 0

    def offer(self, call: Call, outputs: Mapping[str, Array]) -> None:
        """Takes the next call of its section."""
        self._number = self._number + 1 if call.section == self._section else 0
        self._section = call.section
        progress = float(call.progress[0]) if call.place is None else call.place
        for place, wanted in enumerate(np.linspace(0, 1, KEPT_CALLS)):
            at = abs(progress - float(wanted)), call.section, self._number
            if place not in self.by_place or at < self.by_place[place].at:
                self.by_place[place] = Kept(at, _rows(call, outputs, self.rows))

    def arrays(self) -> dict[str, Array]:
        """By name, for `merge`."""
        found: dict[str, Array] = {}
        for place, kept in self.by_place.items():
            found |= {f"{place}/{name}": value for name, value in kept.arrays.items()}
            found[f"{place}/{_AT}"] = np.array(kept.at, np.float64)
        return found

    def merge(self, arrays: Mapping[str, Array]) -> None:
        """Takes what was kept of other sections, as `arrays` gave it. KeyError, ValueError for what it never gives."""
        for place in range(KEPT_CALLS):
            prefix = f"{place}/"
            own = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
            if own:
                distance, section, number = own.pop(_AT).tolist()
                at = float(distance), int(section), int(number)
                if place not in self.by_place or at < self.by_place[place].at:
                    self.by_place[place] = Kept(at, own)

    @property
    def calls(self) -> list[Mapping[str, Array]]:
        """Each once."""
        return list({kept.at[1:]: kept.arrays for _, kept in sorted(self.by_place.items())}.values())

    @property
    def inputs(self) -> list[dict[str, Array]]:
        """Those of each call, by name."""
        return [
            {name.removeprefix(_IN): value for name, value in call.items() if name.startswith(_IN)}
            for call in self.calls
        ]

    def save(self, path: Path) -> None:
        """As `dsr_export.int8.budget.Checks` reads them."""
        arrays = {f"{i}/{name}": value for i, call in enumerate(self.calls) for name, value in call.items()}
        with path.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]


def _rows(call: Call, outputs: Mapping[str, Array], most: int) -> dict[str, Array]:
    rows = np.unique(np.linspace(0, len(call.samples) - 1, most).astype(int))
    inputs = {f"{_IN}{name}": value[rows] for name, value in call.inputs.items()}
    return inputs | {f"{_OUT}{name}": value[rows] for name, value in outputs.items()}
