"""What a candidate must make of the same images in other batches, and of the same batch again.

The images of the largest golden batch do not depend on its size: their first k are the reference of any batch of k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.parity.golden import Golden
from dsr_export.parity.metrics import Comparison, compare
from dsr_export.parity.rows import ParityRow
from dsr_export.parity.tolerances import Tolerance

Array = npt.NDArray[Any]
Made = Mapping[str, "Array | str"]
"""Outputs by name; in place of one that is missing, the reason."""
Infer = Callable[[Mapping[str, Array]], Made]
ROW_MARGIN_DB = 20.0  # equal rows run the same arithmetic and may differ by its order only
IN_BETWEEN = 2
ITSELF = "itself"  # the reference of a check that compares a candidate with its own earlier result


def stricter(tolerance: Tolerance) -> Tolerance:
    """For two results of one candidate, which have no rounding of their own between them."""
    return replace(tolerance, psnr_db=tolerance.psnr_db + ROW_MARGIN_DB, snr_db=tolerance.snr_db + ROW_MARGIN_DB)


def sizes_between(golden: Golden) -> list[int]:
    """Two batch sizes that no golden case has, spread between the smallest and the largest; fewer in a narrow range."""
    free = [size for size in range(min(golden.cases), max(golden.cases)) if size not in golden.cases]
    chosen = {free[len(free) * (i + 1) // (IN_BETWEEN + 1)] for i in range(IN_BETWEEN)} if free else set()
    return sorted(chosen)


def check_between(infer: Infer, golden: Golden, runtime: str, tolerance: Tolerance) -> Iterator[ParityRow]:
    """Batches of sizes in between, against the first images of the largest."""
    largest = golden.cases[max(golden.cases)]
    for size in sizes_between(golden):
        made = infer(_images(largest.inputs, slice(size)))
        for name, truth in largest.outputs.items():
            found = judge(truth[:size], made[name])
            yield ParityRow.of(f"batch-{size}", name, runtime, golden.reference, found, tolerance)


def check_fused(fused: Infer, golden: Golden, runtime: str, tolerance: Tolerance) -> Iterator[ParityRow]:
    """The smallest batch through the kernels that users get, where the other checks run node by node as written."""
    case = golden.cases[min(golden.cases)]
    made = fused(case.inputs)
    for name, truth in case.outputs.items():
        yield ParityRow.of("fused", name, runtime, golden.reference, judge(truth, made[name]), tolerance)


def check_determinism(
    infer: Infer, golden: Golden, first: Made, runtime: str, tolerance: Tolerance
) -> Iterator[ParityRow]:
    """The smallest batch again; `first` is what the candidate made of it before. 300 dB: not a bit differs."""
    again = infer(golden.cases[min(golden.cases)].inputs)
    for name, before in first.items():
        yield ParityRow.of("determinism", name, runtime, ITSELF, _between(before, again[name]), stricter(tolerance))


def check_invariance(
    infer: Infer, golden: Golden, whole: Made, runtime: str, tolerance: Tolerance
) -> Iterator[ParityRow]:
    """The first and the last images of the largest batch, alone; `whole` is what the batch was made into.

    ONNX Runtime runs the same kernels at any batch, an engine may not: there, each of the two has its own rounding.
    """
    low, high = min(golden.cases), max(golden.cases)
    if low == high:
        return
    held = stricter(tolerance) if runtime == "onnxruntime" else tolerance
    inputs, ends = golden.cases[high].inputs, (slice(0, low), slice(high - low, high))
    alone = [infer(_images(inputs, end)) for end in ends]
    for name, together in whole.items():
        parts = [part[name] for part in alone]
        problem = next((part for part in [together, *parts] if isinstance(part, str)), None)
        if problem is not None or isinstance(together, str):
            found = Comparison(problem=problem)
        else:
            same = np.concatenate([together[end] for end in ends])
            found = compare(same, np.concatenate([np.asarray(part) for part in parts]))
        yield ParityRow.of("batch-invariance", name, runtime, ITSELF, found, held)


def judge(truth: Array, candidate: Array | str) -> Comparison:
    """A candidate's output, or why there is none."""
    return Comparison(problem=candidate) if isinstance(candidate, str) else compare(truth, candidate)


def _between(first: Array | str, second: Array | str) -> Comparison:
    return Comparison(problem=first) if isinstance(first, str) else judge(first, second)


def _images(inputs: Mapping[str, Array], which: slice) -> dict[str, Array]:
    return {name: np.ascontiguousarray(value[which]) for name, value in inputs.items()}
