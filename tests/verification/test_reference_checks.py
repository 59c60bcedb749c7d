"""A reference that says the same of every input proves nothing, and that is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dsr_export.parity.golden.vectors import Case, Golden
from dsr_export.verification.reference_checks import reference_checks


def _golden(**outputs: Any) -> Golden:
    """`outputs` of batches 1 and 2: what stands behind the first row is the second one's."""
    cases = {n: Case({"x": np.ones((n, 2))}, {k: np.array(v[:n]) for k, v in outputs.items()}) for n in (1, 2)}
    return Golden(cases, None)


@pytest.mark.parametrize("varies", [[[1.0, 2.0], [1.0, 2.0]], [[0.0, 0.0], [0.0, 1.0]], [[np.nan, np.nan]] * 2])
def test_an_output_of_several_values_is_one_to_compare_with(varies: Any) -> None:
    (check,) = reference_checks(_golden(out=varies))
    assert check.passed and check.problem is None and check.value == 1.0


def test_zeros_for_every_input_are_named() -> None:
    (check,) = reference_checks(_golden(out=[[0.0, 0.0]] * 2, pooled=[[1.0, 2.0]] * 2))
    assert not check.passed and check.value == 0.5
    assert str(check.problem).startswith("out of the reference is one value for all inputs")


def test_rows_that_came_with_the_model_count() -> None:
    golden = _golden(out=[[0.0, 0.0]] * 2)
    further = {"given": Case({"x": np.ones((1, 2))}, {"out": np.array([[0.0, 3.0]])})}
    assert reference_checks(Golden(golden.cases, None, further=further))[0].passed
