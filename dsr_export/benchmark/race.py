"""Latency of graphs side by side: interleaved rounds in one process, medians, and paired ratios with their spread.

A shared machine drifts by more than what is measured; a ratio within one round does not.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.bundle.reader import Bundle
from dsr_export.errors import ExportError
from dsr_export.progress import Bar
from graphs.artifacts import TensorSpec

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Contestant:
    """One graph of a comparison, and the bundle that it is of."""

    name: str
    model: Path
    inputs: tuple[TensorSpec, ...]
    bundle: Bundle | None = None


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Milliseconds a call took, and its ratio to the first contestant of the same round: median and 10-90 % range."""

    name: str
    median_ms: float
    low_ms: float
    high_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float


def race(
    contestants: Sequence[Contestant],
    feeds: Mapping[str, Array],
    *,
    rounds: int,
    warmup: int,
    threads: int | None,
    progress: Bar,
) -> list[Timing]:
    """Times every contestant once a round on the same `feeds`; each round starts with another one.

    Raises:
        ExportError: fewer than two contestants, or one that can't run these inputs.
    """
    if len(contestants) < 2:
        raise ExportError(
            "a comparison needs two graphs or more", hint="name several bundles or ONNX files, or a model"
        )
    with ExitStack() as stack:
        runners = [
            stack.enter_context(OnnxRuntimeRunner(each.model, inputs=each.inputs, threads=threads))
            for each in contestants
        ]
        seconds = np.zeros((warmup + rounds, len(runners)))
        for i in range(len(seconds)):
            for j in np.roll(np.arange(len(runners)), i):
                began = time.perf_counter()
                runners[j].infer(dict(feeds))
                seconds[i, j] = time.perf_counter() - began
            progress(i + 1, len(seconds))
    return _timings([each.name for each in contestants], seconds[warmup:] * 1e3)


def _timings(names: Sequence[str], milliseconds: Array) -> list[Timing]:
    ratios = milliseconds / milliseconds[:, :1]
    low, middle, high = (np.percentile(milliseconds, mark, axis=0) for mark in (10, 50, 90))
    ratio_low, ratio, ratio_high = (np.percentile(ratios, mark, axis=0) for mark in (10, 50, 90))
    return [
        Timing(
            name=name,
            median_ms=float(middle[i]),
            low_ms=float(low[i]),
            high_ms=float(high[i]),
            ratio=float(ratio[i]),
            ratio_low=float(ratio_low[i]),
            ratio_high=float(ratio_high[i]),
        )
        for i, name in enumerate(names)
    ]
