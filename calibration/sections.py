"""Calibration in sections, which depend on the data alone: whoever walks which of them, in any order, changes nothing.

Floats are added up within a section in the order of its calls, and sections in that of a binary tree over all of them:

    ((0 + 1) + (2 + 3)) + 4            five sections; a share that has 2 and 3 knows their sum, and no more is needed
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from calibration.shelf import Shelf

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
    """The sums of `count` sections, as far as they were seen. `zeros()` makes those of nothing.

    What waits for its neighbour has its `hessian` on the `shelf`, where one is given. Methods raise its OSError.
    """

    def __init__(self, count: int, zeros: Callable[[], Sums], shelf: Shelf | None = None) -> None:
        self.count = count
        self.zeros = zeros
        self._shelf = shelf
        self._nodes: dict[Node, Sums] = {}
        self._shelved: dict[Node, Path] = {}
        self._open: tuple[int, Sums] | None = None
        self._taken_from_others: set[int] = set()

    def of(self, section: int) -> Sums:
        """To add to. The section that was open before is done with, unless it is the same."""
        if self._open is None or self._open[0] != section:
            self._close()
            self._open = section, self._taken((0, section)) if (0, section) in self._nodes else self.zeros()
        return self._open[1]

    def put(self, node: Node, sums: Sums) -> None:
        """Takes what someone else has added up over the sections of `node`. ValueError where one was taken before."""
        level, index = node
        sections = set(range(index << level, min((index + 1) << level, self.count)))
        if sections & self._taken_from_others:
            raise ValueError("a section is there twice")
        self._taken_from_others |= sections
        self._place(node, sums)

    def _place(self, node: Node, sums: Sums) -> None:
        """A neighbour that is there joins it."""
        while not self._is_root(node):
            level, index = node
            beside = level, index ^ 1
            if beside[1] << level < self.count:  # else there is nothing to wait for
                if beside not in self._nodes:
                    break
                sums.add(self._taken(beside))  # a + b is b + a, to the last bit
            node = level + 1, index >> 1
        self._nodes[node] = sums
        if self._shelf is not None and sums.hessian.size and not self._is_root(node):
            self._shelved[node] = self._shelf.put(sums.hessian)
            self._nodes[node] = replace(sums, hessian=sums.hessian[:0])

    def nodes(self) -> Iterator[tuple[Node, Sums]]:
        """All that was seen, in as few sums as the tree allows, one after the other in memory."""
        self._close()
        for node, sums in self._nodes.items():
            path = self._shelved.get(node)
            yield node, sums if path is None or self._shelf is None else replace(sums, hessian=self._shelf.get(path))

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
            self._place((0, section), sums)

    def _taken(self, node: Node) -> Sums:
        sums, path = self._nodes.pop(node), self._shelved.pop(node, None)
        return sums if path is None or self._shelf is None else replace(sums, hessian=self._shelf.take(path))

    def _is_root(self, node: Node) -> bool:
        return 1 << node[0] >= self.count
