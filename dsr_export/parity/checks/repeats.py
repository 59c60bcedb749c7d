"""What a candidate must make of its own results again: equal rows, the same batch, images alone and in a batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.parity.candidate import Candidate, Pair, Plan, images, judge
from dsr_export.parity.metrics import Comparison, compare
from dsr_export.parity.tolerances import Tolerance

Array = npt.NDArray[Any]
ROW_MARGIN_DB = 20.0  # equal rows run the same arithmetic and may differ by its order only


def itself(candidate: Candidate) -> str:
    """The reference of a check that compares a candidate with its own earlier result."""
    return "itself"


def stricter(candidate: Candidate) -> Tolerance:
    """For two results of one candidate, which have no rounding of their own between them."""
    given = candidate.tolerance
    return replace(given, psnr_db=given.psnr_db + ROW_MARGIN_DB, snr_db=given.snr_db + ROW_MARGIN_DB)


def equal_rows(plan: Plan) -> list[Pair]:
    return [("rows", name) for name in plan.outputs]


def check_equal_rows(candidate: Candidate) -> Iterator[Comparison]:
    """Equal rows must give equal rows: at the largest batch, one row over and over, all against the first."""
    size, row = candidate.largest, _row_of_numbers(candidate)
    inputs = candidate.golden.cases[size].inputs
    made = candidate.infer({name: np.repeat(value[row : row + 1], size, axis=0) for name, value in inputs.items()})
    for name in candidate.outputs:
        got = made[name]
        yield Comparison(problem=got) if isinstance(got, str) else judge(np.repeat(got[:1], size, axis=0), got)


def repeated_row(candidate: Candidate) -> str:
    """The reference of equal rows."""
    return f"row {_row_of_numbers(candidate)}"


def same_batch(plan: Plan) -> list[Pair]:
    return [("determinism", name) for name in plan.outputs]


def check_same_batch(candidate: Candidate) -> Iterator[Comparison]:
    """The smallest batch again. 300 dB: not a bit differs."""
    size = candidate.smallest
    before, again = candidate.batches[size], candidate.infer(candidate.golden.cases[size].inputs)
    for name in candidate.outputs:
        first = before[name]
        yield Comparison(problem=first) if isinstance(first, str) else judge(first, again[name])


def alone(plan: Plan) -> list[Pair]:
    """None for a fixed batch."""
    return [("batch-invariance", name) for name in plan.outputs if len(plan.golden.cases) > 1]


def check_alone(candidate: Candidate) -> Iterator[Comparison]:
    """The first and the last images of the largest batch as batches of their own, against the same in the largest."""
    low, high = candidate.smallest, candidate.largest
    inputs, ends = candidate.golden.cases[high].inputs, (slice(0, low), slice(high - low, high))
    parts = [candidate.infer(images(inputs, end)) for end in ends]
    for name in candidate.outputs:
        yield _joined(candidate.batches[high][name], [part[name] for part in parts], ends)


def alone_tolerance(candidate: Candidate) -> Tolerance:
    """ONNX Runtime runs the same kernels at any batch, an engine may not: there, each has its own rounding."""
    return stricter(candidate) if candidate.runner.name == "onnxruntime" else candidate.tolerance


def _joined(together: Array | str, parts: list[Array | str], ends: tuple[slice, ...]) -> Comparison:
    problem = next((part for part in [together, *parts] if isinstance(part, str)), None)
    if problem is not None or isinstance(together, str):
        return Comparison(problem=problem)
    same = np.concatenate([together[end] for end in ends])
    return compare(same, np.concatenate([np.asarray(part) for part in parts]))


def _row_of_numbers(plan: Plan) -> int:
    """The first row of which the reference makes numbers: it may be NaN where nothing can be attended to."""
    outputs = plan.golden.cases[plan.largest].outputs
    finite = [np.isfinite(values).reshape(len(values), -1).any(axis=1) for values in outputs.values()]
    return int(np.argmax(np.all(finite, axis=0)))
