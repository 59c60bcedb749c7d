"""Which GEMMs stay in FP16: those whose INT8 form costs the output most, as few as the error budget asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.backends.opening import typed_runner
from dsr_export.parity.decibels import IDENTICAL_DB, decibels
from dsr_export.parity.metrics import same_kinds
from dsr_export.progress import Bar
from dsr_export.storage.leftovers import scratch_folder
from graphs.files import load_inferred_graph, save_graph
from graphs.quantize.gemms import quantize_gemms
from graphs.quantize.quantizers import QuantizedGemm

Array = npt.NDArray[Any]
MARGIN_DB = 1.0  # the calls that are checked here are not those of the parity checks


@dataclass(frozen=True)
class Checks:
    """Calls of the FP32 model: inputs and outputs by name."""

    cases: Sequence[tuple[Mapping[str, Array], Mapping[str, Array]]]

    @classmethod
    def load(cls, path: Path) -> Checks:
        """As the stage `calibrate` wrote them."""
        with np.load(path, allow_pickle=False) as arrays:
            values = dict(arrays)
        ids = sorted({key.split("/")[0] for key in values})
        return cls([(_under(values, f"{i}/in/"), _under(values, f"{i}/out/")) for i in ids])

    def with_cases(self, cases: Sequence[tuple[Mapping[str, Array], Mapping[str, Array]]]) -> Checks:
        return Checks([*self.cases, *cases])


@dataclass(frozen=True)
class Verdict:
    """`kept` are the names that stay in FP16, worst first; `sensitivity_db` the output's SNR with one GEMM in INT8."""

    kept: tuple[str, ...]
    snr_db: float
    sensitivity_db: Mapping[str, float]


class Measure:
    """SNR of the output with some GEMMs of `model` in INT8: the worst row over all checks."""

    def __init__(self, model: Path, plan: Mapping[str, QuantizedGemm], inputs: Any, checks: Checks) -> None:
        self._model, self._plan, self._inputs, self._checks = model, plan, inputs, checks

    def __call__(self, names: Sequence[str], *, cases: int | None = None) -> float:
        """For the GEMMs `names`, over all checks or the last `cases` of them."""
        checked = self._checks.cases[-cases:] if cases else self._checks.cases
        with scratch_folder("int8") as scratch:
            path = scratch / "model.onnx"
            graph = load_inferred_graph(self._model)
            quantize_gemms(graph, {name: self._plan[name] for name in names})
            save_graph(graph, path)
            with typed_runner(path, self._inputs, "int8") as runner:
                return min(_worst_db(truth, runner.infer(dict(fed))) for fed, truth in checked)


def within_budget(
    names: Sequence[str],
    measure: Callable[[Sequence[str]], float],
    budget_db: float,
    *,
    alone: Callable[[str], float],
    rank: Mapping[str, float] | None,
    bar: Bar,
) -> Verdict:
    """Ranks GEMMs, and leaves the worst in FP16 until the budget holds with a margin; all of them, if need be.

    `alone` measures one GEMM; `rank` (name -> dB) spares a large model the measurement of each one alone.
    """
    wanted = budget_db + MARGIN_DB
    sensitivity = dict(rank) if rank is not None else _sensitivity(names, alone, bar)
    worst_first = sorted(names, key=lambda name: sensitivity[name])
    count, reached = 0, measure(names)
    while reached < wanted and count < len(names):
        count = _next_count(worst_first, sensitivity, count, reached, wanted)
        left = worst_first[count:]
        reached = measure(left) if left else IDENTICAL_DB
    return Verdict(tuple(worst_first[:count]), reached, sensitivity)


def _sensitivity(names: Sequence[str], alone: Callable[[str], float], bar: Bar) -> dict[str, float]:
    found = {}
    for i, name in enumerate(names):
        found[name] = alone(name)
        bar(i + 1, len(names))
    return found


def _next_count(
    worst_first: Sequence[str], sensitivity: Mapping[str, float], count: int, reached: float, wanted: float
) -> int:
    """How many to keep next: errors are taken to add up, and what they add up to now is known."""
    noise = np.array([10 ** (-sensitivity[name] / 10) for name in worst_first])
    scale = 10 ** (-reached / 10) / max(noise[count:].sum(), 1e-30)
    allowed = 10 ** (-wanted / 10) / scale
    left = noise[::-1].cumsum()[::-1]  # of those from i on
    enough = int(np.argmax(left <= allowed)) if (left <= allowed).any() else len(worst_first)
    return min(max(enough, count + 1), len(worst_first))


def _worst_db(truth: Mapping[str, Array], made: Mapping[str, Array]) -> float:
    worst = IDENTICAL_DB
    for name, value in truth.items():
        exact, got = (each.reshape(len(value), -1).astype(np.float64) for each in (value, made[name]))
        if not same_kinds(exact, got).all():
            return -IDENTICAL_DB
        known = np.isfinite(exact)  # a row with nothing to attend to is NaN in both
        exact, got = np.where(known, exact, 0), np.where(known, got, 0)
        noise = np.square(got - exact).mean(axis=1)
        worst = min(worst, float(decibels(np.square(exact).mean(axis=1), noise).min()))
    return worst


def _under(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {key[len(prefix) :]: value for key, value in arrays.items() if key.startswith(prefix)}
