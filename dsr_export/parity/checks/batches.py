"""What a candidate must make of the golden batches, and of the same images in batches of other sizes.

The images of the largest golden batch do not depend on its size: their first k are the reference of any batch of k.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dsr_export.parity.candidate import Candidate, Pair, Plan, images, judge
from dsr_export.parity.golden.vectors import Golden
from dsr_export.parity.metrics import Comparison

IN_BETWEEN = 2


def golden_batches(plan: Plan) -> list[Pair]:
    return [(name, output) for name in batch_names(plan.golden.cases) for output in plan.outputs]


def batch_names(sizes: Iterable[int]) -> list[str]:
    """What the checks of batches of these sizes are called."""
    return [f"batch-{size}" for size in sizes]


def check_golden_batches(candidate: Candidate) -> Iterator[Comparison]:
    """Every golden batch, output by output."""
    for size, case in candidate.golden.cases.items():
        yield from (judge(case.outputs[name], candidate.batches[size][name]) for name in candidate.outputs)


def sizes_between(golden: Golden) -> list[int]:
    """Two batch sizes that no golden case has, spread between the smallest and the largest; fewer in a narrow range."""
    free = [size for size in range(min(golden.cases), max(golden.cases)) if size not in golden.cases]
    chosen = {free[len(free) * (i + 1) // (IN_BETWEEN + 1)] for i in range(IN_BETWEEN)} if free else set()
    return sorted(chosen)


def between(plan: Plan) -> list[Pair]:
    return [(name, output) for name in batch_names(sizes_between(plan.golden)) for output in plan.outputs]


def check_between(candidate: Candidate) -> Iterator[Comparison]:
    """Batches of sizes in between, against the first images of the largest."""
    largest = candidate.golden.cases[candidate.largest]
    for size in sizes_between(candidate.golden):
        made = candidate.infer(images(largest.inputs, slice(size)))
        yield from (judge(largest.outputs[name][:size], made[name]) for name in candidate.outputs)


def fused(plan: Plan) -> list[Pair]:
    return [("fused", name) for name in plan.outputs]


def check_fused(candidate: Candidate) -> Iterator[Comparison]:
    """The smallest batch through the kernels that users get, where the other checks run node by node as written."""
    case = candidate.golden.cases[candidate.smallest]
    made = candidate.infer(case.inputs)
    yield from (judge(case.outputs[name], made[name]) for name in candidate.outputs)
