"""What both bundles make of A's golden inputs, in ONNX Runtime: B against A, and each against the golden outputs.

Their portable graphs do: what is run in the place of one, and what engines are made of, come from the same source.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from dsr_export.backends.opening import typed_runner
from dsr_export.bundle.reader import MODEL, Bundle
from dsr_export.errors import ExportError, RunnerError
from dsr_export.parity.golden.reader import read_golden
from dsr_export.parity.golden.vectors import Golden
from dsr_export.parity.metrics import Comparison, compare
from dsr_export.parity.tolerances import Tolerance
from dsr_export.progress import Bar

Array = npt.NDArray[Any]
Made = dict[int, dict[str, Array] | str]
"""Batch size -> outputs by name, or why there are none."""


def output_difference(a: Bundle, b: Bundle, bar: Bar) -> list[dict[str, Any]]:
    """One row per golden batch and output. One model is in memory at a time; equal graphs are run once."""
    golden = read_golden(a)
    steps = 2 * len(golden.cases)
    first = _run(a, golden, lambda done: bar(done, steps))
    again = _ran(a) == _ran(b)
    second = first if again else _run(b, golden, lambda done: bar(len(golden.cases) + done, steps))
    tolerances = [Tolerance.from_dict(each.manifest.tolerances) for each in (a, b)]
    rows = []
    for size, case in golden.cases.items():
        for name, truth in case.outputs.items():
            sides = [_one(made[size], name) for made in (first, second)]
            rows.append({"batch": size, "output": name, **_row(truth, sides[0], sides[1], tolerances)})
    return rows


def _row(truth: Array, a: Array | str, b: Array | str, tolerances: list[Tolerance]) -> dict[str, Any]:
    against = [_judged(truth, side) for side in (a, b)]
    figures = [
        {**found.as_dict(), "passed": found.within(limit)} for found, limit in zip(against, tolerances, strict=True)
    ]
    between = Comparison(problem=a) if isinstance(a, str) else _judged(a, b)
    return {"a": figures[0], "b": figures[1], "b_against_a": between.as_dict()}


def _ran(bundle: Bundle) -> tuple[object, ...]:
    """Everything the numbers depend on: the same makes the same numbers, and need not be run again."""
    files = {name: entry.sha256 for name, entry in bundle.manifest.files.items() if name.startswith(MODEL)}
    return files, bundle.manifest.inputs, bundle.manifest.precision


def _run(bundle: Bundle, golden: Golden, done: Any) -> Made:
    try:
        with typed_runner(bundle.file(MODEL), bundle.manifest.inputs, bundle.manifest.precision) as runner:
            made: Made = {}
            for count, (size, case) in enumerate(golden.cases.items(), 1):
                made[size] = _infer(runner, case.inputs)
                done(count)
            return made
    except RunnerError as error:  # a graph that does not load is a finding, and the rest of the diff still stands
        return dict.fromkeys(golden.cases, error.message)


def _infer(runner: Any, inputs: Mapping[str, Array]) -> dict[str, Array] | str:
    try:
        outputs: dict[str, Array] = runner.infer(dict(inputs))
    except ExportError as error:  # it may also take other inputs than the bundle they are from
        return error.message
    return outputs


def _one(made: dict[str, Array] | str, name: str) -> Array | str:
    return made if isinstance(made, str) else made.get(name, "there is no such output")


def _judged(truth: Array, side: Array | str) -> Comparison:
    return Comparison(problem=side) if isinstance(side, str) else compare(truth, side)
