"""The rows beyond the drawn ones: the model's own, which came with it or which its pipeline makes, and special ones.

Of some of them a model makes nearly nothing (the mean of equal tokens taken off), whose own error says nothing. They
are measured against the signal of all, drawn rows included; the model's own each alone as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.config import BatchRange
from dsr_export.parity.batch_calls import batches
from dsr_export.parity.candidate import Candidate, Made, Pair, Plan, judge
from dsr_export.parity.golden.vectors import OWN
from dsr_export.parity.metrics import Comparison

Array = npt.NDArray[Any]
QUIET = 1e-3  # of the loudest row: what is below is left of a difference


def further_rows(plan: Plan) -> list[Pair]:
    return [(name, output) for name, case in plan.golden.further.items() for output in _judged(name, case.outputs)]


def check_further(candidate: Candidate) -> Iterator[Comparison]:
    """One for each case and output."""
    golden = candidate.golden
    for name, case in golden.further.items():
        made = _in_batches(candidate.once, case.inputs, golden.batch)
        for output in _judged(name, case.outputs):
            beside = golden.cases[golden.batch.min].outputs[output]
            yield _judge(case.outputs[output], made[output], beside, alone=name in OWN)


def _judged(name: str, outputs: Mapping[str, Array]) -> list[str]:
    """Integers are decisions, and what decides among equal tokens is rounding: they are judged on its own rows."""
    return [output for output, values in outputs.items() if name in OWN or values.dtype.kind == "f"]


def _judge(truth: Array, got: Array | str, beside: Array, *, alone: bool) -> Comparison:
    """All rows and the drawn ones `beside` them as one; or, where that is worse, those with a signal of their own."""
    if isinstance(got, str) or got.shape != truth.shape or got.dtype != truth.dtype:
        return judge(truth, got)
    whole = [np.concatenate([rows, beside]).reshape(1, -1) for rows in (truth, got)]
    together = judge(whole[0], whole[1])
    size = np.sqrt([np.square(_numbers(row)).mean() for row in (*truth, *beside)])
    loud = size[: len(truth)] >= QUIET * size.max()
    if not alone or together.problem is not None or not loud.any():
        return together
    return min(together, judge(truth[loud], got[loud]), key=lambda found: found.snr_db or 0.0)


def _numbers(row: Array) -> Array:
    """Without what is no number: how loud a row is, is asked of the rest."""
    return np.nan_to_num(row.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _in_batches(infer: Callable[[dict[str, Array]], Made], inputs: Mapping[str, Array], batch: BatchRange) -> Made:
    rows = len(next(iter(inputs.values())))
    parts = [infer(part) for part in batches(inputs, batch)]
    return {name: _joined([part[name] for part in parts], rows) for name in parts[0]}


def _joined(parts: list[Array | str], rows: int) -> Array | str:
    """The output of all rows, or the first reason why there is none."""
    problem = next((part for part in parts if isinstance(part, str)), None)
    return problem if problem is not None else np.concatenate([np.asarray(part) for part in parts])[:rows]
