"""Engines of two bundles that stand side by side: of one target, or the only one of each bundle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]
Lines = list[tuple[str | None, Json | None, Json | None]]


@dataclass(frozen=True)
class EnginePair:
    """The schedules of an engine of A and one of B, as `schedule_details` has them."""

    name: str
    a: Json
    b: Json

    @property
    def comparable(self) -> bool:
        """Whether both are read at one batch."""
        return bool(self.a["batch"] == self.b["batch"])

    def blocks(self) -> Lines:
        """The blocks of A in their order, then those that B alone has: name, A's figures, B's."""
        left, right = ({each["block"]: each for each in side["blocks"]} for side in (self.a, self.b))
        return [(name, left.get(name), right.get(name)) for name in dict.fromkeys([*left, *right])]

    def devices(self) -> list[tuple[str, Json, Json]]:
        """The estimates of both, on devices that both have."""
        left, right = self.a["estimates"], self.b["estimates"]
        return [(name, left[name], right[name]) for name in left if name in right]


def engine_pairs(engines: Mapping[str, Json]) -> Iterator[EnginePair]:
    """Of `engine_difference`; those whose schedule is not known are left out."""
    told = {side: {n: e[side]["schedule"] for n, e in engines.items() if _is_told(e[side])} for side in "ab"}
    common = [name for name in told["a"] if name in told["b"]]
    if not common and len(told["a"]) == len(told["b"]) == 1:
        (left, a), (right, b) = (*told["a"].items(), *told["b"].items())
        yield EnginePair(f"{left} and {right}", a, b)
    for name in common:
        yield EnginePair(name, told["a"][name], told["b"][name])


def _is_told(side: Json | None) -> bool:
    return side is not None and isinstance(side.get("schedule"), dict)
