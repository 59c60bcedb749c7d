"""Arrays that wait on a disk: sums of sections whose neighbours are not walked yet would fill memory several times."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass
class Shelf:
    """In `folder`, which is made when it is needed, and removed by `clear`. All methods raise OSError."""

    folder: Path
    _numbers: count[int] = field(default_factory=count)

    def put(self, array: Array) -> Path:
        """Writes it; `get` takes what is returned."""
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"{next(self._numbers)}.npy"
        np.save(path, array, allow_pickle=False)
        return path

    def get(self, path: Path) -> Array:
        """What was put there, in memory."""
        array: Array = np.load(path, allow_pickle=False)
        return array

    def take(self, path: Path) -> Array:
        """As `get`, and the file is gone."""
        array = self.get(path)
        path.unlink()
        return array

    def clear(self) -> None:
        if self.folder.exists():
            shutil.rmtree(self.folder)
