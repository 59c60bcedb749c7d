"""Mean and scatter of features in float64, for streams: parts are summed up apart and merged afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.errors import ExportError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Moments:
    """Of `count` rows: `mean` [D], and `scatter` [D, D], the sum of outer products of deviations from it; float64.

    `scatter / (count - 1)` is the covariance. Parts are merged as T. F. Chan, G. H. Golub and R. J. LeVeque do
    (Updating formulae and a pairwise algorithm for computing sample variances, 1979): no difference of large sums.
    """

    count: int
    mean: Array
    scatter: Array

    @classmethod
    def of(cls, rows: Array) -> Moments:
        """Of features [n, D]. ExportError where they hold NaN or infinities: a distance to these says nothing."""
        rows = np.asarray(rows, np.float64)
        if not np.isfinite(rows).all():
            raise ExportError("the features of a picture hold NaN or infinities", hint="check the files of --network")
        mean = rows.mean(axis=0)
        apart = rows - mean
        return cls(len(rows), mean, apart.T @ apart)

    @property
    def width(self) -> int:
        return len(self.mean)

    @property
    def covariance(self) -> Array:
        """[D, D], unbiased."""
        return np.asarray(self.scatter / (self.count - 1))

    def merged(self, other: Moments) -> Moments:
        """Of the rows of both."""
        count = self.count + other.count
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        scatter = self.scatter + other.scatter + np.outer(step, step) * (self.count * other.count / count)
        return Moments(count, mean, scatter)

    def arrays(self, prefix: str) -> dict[str, Array]:
        """For an npz file."""
        values = {"count": np.array(self.count, np.int64), "mean": self.mean, "scatter": self.scatter}
        return {f"{prefix}{name}": value for name, value in values.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], prefix: str) -> Moments:
        """What `arrays` gave."""
        return cls(int(arrays[f"{prefix}count"]), arrays[f"{prefix}mean"], arrays[f"{prefix}scatter"])


def merged(parts: Iterable[Moments]) -> Moments:
    """Of the rows of all parts, merged in their order: the same order gives the same bits."""
    return reduce(Moments.merged, parts)
