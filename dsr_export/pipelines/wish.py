"""What is to be drawn by a pipeline."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be drawn: `prompts` (of n images), or `labels` of classes [n].

    `negative` stands for the absence of a prompt. `guidance` and `steps` are the pipeline's where they are None;
    `true_guidance` is the scale of a negative prompt where the model takes guidance as an input. `noise` [n, C, h, w]
    is drawn from `seed` where it is not given, that of image `first` and those behind it.
    """

    prompts: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    negative: str | None = None
    seed: int = 0
    first: int = 0
    steps: int | None = None
    guidance: float | None = None
    true_guidance: float | None = None
    noise: Array | None = field(default=None, repr=False)

    @property
    def count(self) -> int:
        return len(self.prompts) or len(self.labels)
