"""Calls of a model: the same inputs are asked for once, where the answer is wanted and not whether it comes again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dsr_export.config import BatchRange
from dsr_export.parity.batch_calls import in_batches, remembered
from dsr_export.parity.candidate import Candidate
from dsr_export.parity.checks.further import check_further
from dsr_export.parity.checks.repeats import check_same_batch
from dsr_export.parity.golden.vectors import SPECIAL, Golden, make_golden
from dsr_export.parity.tolerances import TOLERANCES
from dsr_export.subjects.module import subject_from
from dsr_export.subjects.torch_runner import TorchRunner

Array = np.ndarray[Any, Any]


class Counting(TorchRunner):
    """Keeps what it was asked."""

    def __init__(self, subject: Any) -> None:
        super().__init__(subject)
        self.asked: list[bytes] = []

    def infer(self, inputs: dict[str, Array]) -> dict[str, Array]:
        self.asked.append(inputs["input"].tobytes())
        return super().infer(inputs)


def _made(batch: BatchRange) -> tuple[Golden, Counting]:
    torch.manual_seed(0)
    subject = subject_from((nn.Linear(2, 2), {"input": torch.randn(2, 3, 2)}), name="m", called="m", provenance={})
    reference = Counting(subject)
    return make_golden(subject, reference, batch=batch, sampler=None, progress=lambda _, __: None), reference


def test_the_same_inputs_are_asked_for_once() -> None:
    asked: list[float] = []

    def infer(inputs: dict[str, Array]) -> dict[str, Array]:
        asked.append(float(inputs["x"][0]))
        return {"out": inputs["x"] * 2}

    rows = {"x": np.array([1, 2, 1, 1], np.float32)}
    once = remembered(infer)
    made = [in_batches(once, rows, BatchRange(1, 1, 1))["out"].tolist() for _ in range(2)]
    assert made == [[2, 4, 2, 2]] * 2 and asked == [1, 2]


@pytest.mark.parametrize(
    "other", [{"y": np.zeros(2, np.int32)}, {"x": np.zeros(1, np.int64)}, {"x": np.zeros((2, 1), np.int32)}]
)
def test_equal_bytes_are_not_equal_inputs(other: dict[str, Array]) -> None:
    once = remembered(lambda inputs: {"out": next(iter(inputs.values()))})
    first = once({"x": np.zeros(2, np.int32)})
    first.clear()
    assert once(other)["out"] is next(iter(other.values()))
    assert once({"x": np.zeros(2, np.int32)})["out"].shape == (2,), "whoever changes an answer changes their own"


def test_a_reference_of_single_rows_computes_no_row_twice() -> None:
    golden, reference = _made(BatchRange(1, 1, 1))
    assert len(golden.further[SPECIAL].inputs["input"]) > len(set(map(bytes, golden.further[SPECIAL].inputs["input"])))
    assert len(reference.asked) == len(set(reference.asked))


def test_a_candidate_is_asked_again_only_where_that_is_the_question() -> None:
    golden, reference = _made(BatchRange(1, 1, 1))
    reference.asked.clear()
    tolerance = TOLERANCES["fp32"]
    held = Candidate(runner=reference, golden=golden, sampler=None, tolerance=tolerance, progress=lambda _, __: None)
    found = [*check_further(held), *check_same_batch(held)]
    twice = {each for each in reference.asked if reference.asked.count(each) > 1}
    assert twice == {golden.cases[1].inputs["input"].tobytes()} and all(each.problem is None for each in found)
