"""Calibration in sections, which depend on the data alone: whoever walks which of them, in any order, changes nothing.

Floats are added up within a section in the order of its calls, and sections in that of a binary tree over all of them:

    ((0 + 1) + (2 + 3)) + 4            five sections; a share that has 2 and 3 knows their sum, and no more is needed
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]
MOST_SECTIONS = 32  # enough to spread, and few enough for the sums that wait for their neighbour's
Node = tuple[int, int]
"""Level and index: the sections from `index << level` on, `1 << level` of them or those that are there."""


@dataclass(frozen=True)
class Sections:
    """Of `units` that are walked one after the other (groups of images, or calls), neighbours together."""

    units: int

    @property
    def size(self) -> int:
        """Units of a section; the last may have fewer."""
        return max(1, -(-self.units // MOST_SECTIONS))

    @property
    def count(self) -> int:
        return max(1, -(-self.units // self.size))

    def of(self, unit: int) -> int:
        """The section of a unit."""
        return unit // self.size


@dataclass
class Sums:
    """What adds up, of one activation: weighted sums of x [K] and of x^T x [K, K], the squares of each role and bucket
    [roles, buckets], and the rows' weight []."""

    squares: Array
    weight: Array
    sums: Array
    hessian: Array

    def add(self, other: Sums) -> None:
        """In place."""
        for mine, others in zip(self.arrays().values(), other.arrays().values(), strict=True):
            mine += others

    def arrays(self) -> dict[str, Array]:
        """By name; not copied."""
        return {"squares": self.squares, "weight": self.weight, "sums": self.sums, "hessian": self.hessian}


class SectionSums:
    """The sums of `count` sections, as far as they were seen. `zeros()` makes those of nothing."""

    def __init__(self, count: int, zeros: Callable[[], Sums]) -> None:
        self.count = count
        self.zeros = zeros
        self._nodes: dict[Node, Sums] = {}
        self._open: tuple[int, Sums] | None = None

    def of(self, section: int) -> Sums:
        """To add to. The section that was open before is done with, unless it is the same."""
        if self._open is None or self._open[0] != section:
            self._close()
            self._open = section, self._nodes.pop((0, section), None) or self.zeros()
        return self._open[1]

    def put(self, node: Node, sums: Sums) -> None:
        """Takes what someone else has added up over the sections of `node`; a neighbour that is there joins it."""
        while not self._is_root(node):
            level, index = node
            beside = level, index ^ 1
            if beside[1] << level < self.count:  # else there is nothing to wait for
                if beside not in self._nodes:
                    break
                sums = self._joined(beside, sums)
            node = level + 1, index >> 1
        self._nodes[node] = sums

    def nodes(self) -> dict[Node, Sums]:
        """All that was seen, in as few sums as the tree allows."""
        self._close()
        return dict(self._nodes)

    def whole(self) -> Sums:
        """Of all sections. ValueError where some were not seen; zeros where none was."""
        self._close()
        if not self._nodes:
            return self.zeros()
        (node, sums), *others = self._nodes.items()
        if others or not self._is_root(node):
            raise ValueError("some sections were not seen")
        return sums

    def _close(self) -> None:
        if self._open is not None:
            section, sums = self._open
            self._open = None
            self.put((0, section), sums)

    def _joined(self, beside: Node, sums: Sums) -> Sums:
        other = self._nodes.pop(beside)
        other.add(sums)  # a + b is b + a, to the last bit
        return other

    def _is_root(self, node: Node) -> bool:
        return 1 << node[0] >= self.count
