"""How good a quantised graph is: one step, a whole walk, and its time beside the FP32 graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dsr_export.backends.base import Runner, as_denoiser
from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.benchmark.race import Contestant, Timing, race
from dsr_export.parity.metrics import compare
from graphs.files import load_model
from graphs.quantize.emulate_codes import emulate_codes
from tests.comparisons.calls import HeldOut
from tests.comparisons.models import Graph

BATCH = 2


@dataclass(frozen=True)
class Quality:
    """SNR of one step, the worst and the median over held-out rows; PSNR of the worst final sample."""

    snr_db: float
    median_snr_db: float
    psnr_db: float | None


def quality(graph: Graph, model: Path, held: HeldOut, *, walks: bool = True) -> Quality:
    """Of `model` against the FP32 `graph`, node by node as written: fused integer kernels round differently.

    Raises:
        ValueError: what it computes can't be compared: NaN, or another shape.
    """
    written = emulate_codes(load_model(model, weights=False), model.parent).SerializeToString()
    with OnnxRuntimeRunner(written, inputs=graph.card.inputs, optimize=False, weights=model.parent) as runner:
        return runner_quality(runner, held, walks=walks)


def runner_quality(runner: Runner, held: HeldOut, *, walks: bool = True) -> Quality:
    """The same of a model that is open. Raises as `quality`."""
    denoise = as_denoiser(runner)
    made = [denoise(inputs) for inputs, _ in held.cases]
    return scored(made, held, compare(held.final, held.walk(denoise)).psnr_db if walks else None)


def scored(made: Sequence[np.ndarray], held: HeldOut, psnr_db: float | None = None) -> Quality:
    """Of what was made of each held-out case, in their order. Raises as `quality`."""
    cases = [(truth, out) for (_, truth), out in zip(held.cases, made, strict=True)]
    rows = [_snr(truth[i : i + 1], out[i : i + 1]) for truth, out in cases for i in range(len(truth))]
    return Quality(min(rows), float(np.median(rows)), psnr_db)


def _snr(truth: np.ndarray, made: np.ndarray) -> float:
    found = compare(truth, made.astype(np.float32))
    if found.snr_db is None:
        raise ValueError(found.problem)
    return found.snr_db


def timings(graph: Graph, models: Mapping[str, Path], held: HeldOut, *, rounds: int, threads: int) -> dict[str, Timing]:
    """Every model beside the FP32 graph, as ONNX Runtime optimises them; ratios below 1 are faster than FP32."""
    feeds = {name: value[:BATCH] for name, value in held.cases[len(held.cases) // 2][0].items()}
    contestants = [Contestant(name, path, graph.card.inputs) for name, path in {"": graph.path, **models}.items()]
    found = race(contestants, feeds, rounds=rounds, warmup=3, threads=threads, progress=lambda done, total: None)
    return {each.name: each for each in found if each.name}


def megabytes(path: Path) -> float:
    """The graph with its weights."""
    return sum(file.stat().st_size for file in path.parent.glob(path.name + "*")) / 1e6
