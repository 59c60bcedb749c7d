"""How examples of an input are drawn: one row, by the name that a recipe gives. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dsr_export.example_rows.drawn import Array, Draw, draw_below
from dsr_export.families.diffusers.general.sizes import Sizes


def _uniform(low: float, high: float) -> Draw:
    return lambda rng, shape: np.asarray(rng.uniform(low, high, shape))


def _mask(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """A prompt of random length: ones, then zeros for the padding."""
    return np.arange(shape[0]) < rng.integers(1, shape[0] + 1)


_DRAWS: Mapping[str, Draw] = {
    "thousand": _uniform(0, 1000),
    "thousands": _uniform(1000, 8000),
    "unit": _uniform(0.02, 1),
    "guidance": _uniform(1, 5),
    "pixels": _uniform(256, 1024),
    "corner": _uniform(0, 64),
    "mask": _mask,
    "flags": lambda rng, shape: rng.integers(0, 2, shape),
}


def draw_of(name: str, sizes: Sizes) -> Draw | None:
    """The draw called `name`; None for plain normal numbers."""
    if name == "normal":
        return None
    if name.startswith("below "):
        return draw_below(sizes.of(name.removeprefix("below ")))
    if name == "length":
        return lambda rng, shape: np.asarray(rng.integers(1, sizes.text + 1, shape))
    if name == "text_then_all":
        return lambda rng, shape: _mask(rng, (sizes.text,)).tolist() + [True] * (shape[0] - sizes.text)
    return _DRAWS[name]
