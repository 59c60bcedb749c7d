"""The table of checks of a model that compare no outputs: the build, `verify` and the pytest plugin walk it.

A new one is an entry here, with the function that measures it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import onnx

from dsr_export.bundle.reader import Bundle
from dsr_export.parity.golden.vectors import Golden
from dsr_export.parity.narrowing import least_narrow
from dsr_export.parity.rows import ParityRow
from dsr_export.reports.record import Check
from dsr_export.verification import claims
from graphs.foreign.types import foreign_types
from graphs.precisions import PRECISIONS, Precision

Of = TypeVar("Of", contravariant=True)
PASSED_WHEN_BUILT = "passed_when_built"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Of a model, wherever it is checked: the precision asked for, and the share of weights that has it."""

    precision: Precision
    narrow: float


@dataclass(frozen=True, kw_only=True)
class Opened(Weights):
    """A model of a bundle that is verified; `rows` are those of its ONNX graph, the first of `graphs`."""

    bundle: Bundle
    graphs: Sequence[onnx.ModelProto]
    golden: Golden
    rows: Sequence[ParityRow]


@dataclass(frozen=True)
class Finding:
    """What was measured, the least that passes, and what is wrong where that is no figure."""

    value: float
    limit: float
    problem: str | None = None


@dataclass(frozen=True)
class ModelCheck(Generic[Of]):
    """`title` is what test runners call it, `name` what it is called in the report of a precision."""

    title: str
    name: Callable[[Precision], str]
    measure: Callable[[Of], Finding]


def _narrow_weights(model: Weights) -> Finding:
    return Finding(model.narrow, least_narrow(model.precision))


def _share(precision: Precision) -> str:
    return PRECISIONS[precision].fraction


def _claim(name: str, problems: Callable[[Opened], Iterable[str]]) -> ModelCheck[Opened]:
    """What a bundle says of itself: holds where nothing is found that speaks against it."""

    def measure(model: Opened) -> Finding:
        found = list(problems(model))
        return Finding(float(not found), 1.0, "; ".join(found) or None)

    return ModelCheck(name, lambda precision: name, measure)


WEIGHTS: ModelCheck[Weights] = ModelCheck("precision", _share, _narrow_weights)
CLAIMS = (
    _claim("tolerances_of_precision", lambda of: claims.tolerance_problems(of.bundle.manifest, of.bundle.report())),
    _claim("types_of_precision", lambda of: [each for g in of.graphs for each in foreign_types(g, of.precision)]),
    _claim("engine_headers", lambda of: claims.plan_problems(of.bundle)),
    _claim("rows_of_build", lambda of: claims.content_problems(of.bundle, of.golden, of.rows)),
)
BUILT: tuple[ModelCheck[Weights], ...] = (WEIGHTS,)
"""Of a build: what its bundle says of itself is yet to be written."""
VERIFIED: tuple[ModelCheck[Opened], ...] = (WEIGHTS, *CLAIMS)
"""Of each model of a bundle, in the order of a report."""


def run_checks(table: Iterable[ModelCheck[Of]], model: Of, precision: Precision) -> list[Check]:
    """The report's checks, in the order of the table."""
    return [_check(each.name(precision), each.measure(model)) for each in table]


def passed_when_built(role: str, passed: bool) -> Check:
    """Of a component in a build, which runs nothing of it: a pipeline is no better than its parts."""
    return Check(component=role, name=PASSED_WHEN_BUILT, value=float(passed), limit=1.0, passed=passed)


def _check(name: str, found: Finding) -> Check:
    passed = found.value >= found.limit
    return Check(name=name, value=found.value, limit=found.limit, passed=passed, problem=found.problem)
