"""What the output keeps with some GEMMs quantised: calls of the FP32 model, and the worst of their errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.backends.opening import typed_runner
from dsr_export.int8.ladders import Formats
from dsr_export.int8.plan_files import Plans, chosen_plan
from dsr_export.parity.decibels import IDENTICAL_DB, decibels
from dsr_export.parity.metrics import same_kinds
from dsr_export.storage.leftovers import scratch_folder
from graphs.files import load_inferred_graph, save_graph
from graphs.precisions import Precision
from graphs.quantize.gemms import quantize_gemms

Array = npt.NDArray[Any]


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


class Measure:
    """SNR of the output with some GEMMs of `model` in the precision: the worst row over all checks."""

    def __init__(self, model: Path, plans: Plans, inputs: Any, checks: Checks, precision: Precision) -> None:
        self._model, self._plans, self._inputs, self._checks = model, plans, inputs, checks
        self._precision: Precision = precision

    def __call__(self, formats: Formats, *, cases: int | None = None) -> float:
        """With those formats, over all checks or the last `cases` of them."""
        checked = self._checks.cases[-cases:] if cases else self._checks.cases
        with scratch_folder("int8") as scratch:
            path = scratch / "model.onnx"
            graph = load_inferred_graph(self._model)
            quantize_gemms(graph, chosen_plan(self._plans, formats))
            save_graph(graph, path)
            with typed_runner(path, self._inputs, self._precision) as runner:
                return min(_worst_db(truth, runner.infer(dict(fed))) for fed, truth in checked)


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
