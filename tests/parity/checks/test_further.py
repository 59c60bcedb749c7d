"""The rows that came with a model are run as they are, and special ones beside them, whatever batch is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dsr_export.config import BatchRange
from dsr_export.parity.candidate import Plan
from dsr_export.parity.checks.further import further_rows
from dsr_export.parity.checks.table import ParityReport, check_parity
from dsr_export.parity.golden.vectors import Golden, make_golden
from dsr_export.parity.tolerances import TOLERANCES
from dsr_export.sites.tap_inputs import candidate_inputs
from dsr_export.subject import Subject
from dsr_export.subjects.digest import content_digest
from dsr_export.subjects.module import subject_from

Array = np.ndarray[Any, Any]
Infer = Callable[[dict[str, Array]], dict[str, Array]]
MASK = torch.tensor([[1.0, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
ONE = BatchRange(1, 1, 1)


class Masked(nn.Module):
    def forward(self, x: torch.Tensor, m: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * m[:, :, None], (x > 0).sum(dim=(1, 2))


def _subject(x: torch.Tensor | None = None, mask: torch.Tensor = MASK) -> Subject:
    given = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)) if x is None else x
    made = (Masked(), {"x": given, "m": mask})
    return subject_from(made, name="masked", called="masked", provenance={})


def _golden(subject: Subject, batch: BatchRange = ONE) -> Golden:
    return make_golden(subject, subject.reference(), batch=batch, sampler=None, progress=lambda _, __: None)


class Candidate:
    """The model itself, but for what `change` makes of its first output."""

    name = "onnxruntime"

    def __init__(self, subject: Subject, change: Callable[[dict[str, Array], Array], Array]) -> None:
        self._reference, self._change = subject.reference(), change
        self.sizes: set[int] = set()

    def __enter__(self) -> Candidate:
        return self

    def __exit__(self, *_: object) -> None: ...

    def infer(self, inputs: dict[str, Array]) -> dict[str, Array]:
        self.sizes.add(len(inputs["x"]))
        made = self._reference.infer(inputs)
        return {**made, "out": self._change(inputs, made["out"].copy()).astype(np.float32)}


def _failed(change: Callable[[dict[str, Array], Array], Array], batch: BatchRange = ONE) -> set[str]:
    subject = _subject()
    candidate = Candidate(subject, change)
    report: ParityReport = check_parity(
        candidate, _golden(subject, batch), None, TOLERANCES["fp16"], lambda _, __: None
    )
    assert min(candidate.sizes) >= batch.min and max(candidate.sizes) <= batch.max
    return {row.check for row in report.rows if not row.passed}


def _where(wrong: Callable[[dict[str, Array], int], bool]) -> Callable[[dict[str, Array], Array], Array]:
    """Wrong on the rows that `wrong` names."""

    def change(inputs: dict[str, Array], out: Array) -> Array:
        for i in range(len(out)):
            out[i] += wrong(inputs, i)
        return out

    return change


BATCHES = [ONE, BatchRange(1, 2, 4), BatchRange(2, 2, 2)]


def test_the_rows_are_kept_as_they_are_and_written(tmp_path: Path) -> None:
    subject = _subject()
    golden = _golden(subject)
    golden.save(tmp_path / "golden.npz")
    with np.load(tmp_path / "golden.npz") as arrays:
        again = Golden.from_arrays(dict(arrays))
    for each in (golden, again):
        given = each.further["given"]
        np.testing.assert_array_equal(given.inputs["m"], MASK.numpy())
        np.testing.assert_array_equal(given.inputs["x"], subject.given["x"])
        np.testing.assert_array_equal(given.outputs["out"], given.inputs["x"] * MASK.numpy()[:, :, None])
    assert further_rows(Plan(golden=again, sampler=None)) == [("given", "out"), ("given", "out_1"), ("special", "out")]
    np.testing.assert_array_equal(candidate_inputs(golden, None)[0]["x"][:3], subject.given["x"])  # taps see them


def test_more_rows_than_an_example_has_are_cut() -> None:
    golden = _golden(_subject(torch.randn(70, 5, 4), torch.ones(70, 5)))
    assert {name: len(case.inputs["x"]) for name, case in golden.further.items()}["given"] == 64


@pytest.mark.parametrize("batch", BATCHES)
def test_a_sound_candidate_passes(batch: BatchRange) -> None:
    assert _failed(lambda _, out: out, batch) == set()


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("index", [0, 1, 2])
def test_what_is_wrong_on_one_given_row_alone_is_found(batch: BatchRange, index: int) -> None:
    row = _subject().given["x"][index]
    assert "given" in _failed(_where(lambda inputs, i: np.array_equal(inputs["x"][i], row)), batch)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", ["x", "m"])
def test_what_is_wrong_on_an_empty_row_alone_is_found(batch: BatchRange, name: str) -> None:
    assert _failed(_where(lambda inputs, i: not np.any(inputs[name][i])), batch) == {"special"}


def test_nan_on_an_empty_row_is_found() -> None:
    assert _failed(lambda inputs, out: np.where(np.any(inputs["x"], (1, 2), keepdims=True), out, np.nan)) == {"special"}


def test_what_is_left_of_a_difference_is_measured_against_the_signal() -> None:
    """A given row of zeros: 1e-5 beside outputs of 1 is rounding, and a tenth is not."""
    subject = _subject(torch.zeros(3, 5, 4), torch.ones(3, 5))
    for size, failed in ((1e-5, set()), (0.1, {"given", "special"})):
        candidate = Candidate(subject, lambda inputs, out, size=size: np.where(out == 0, size, out))
        report = check_parity(candidate, _golden(subject), None, TOLERANCES["fp16"], lambda _, __: None)
        assert {row.check for row in report.rows if not row.passed} == failed


def test_other_rows_are_another_model_to_the_cache() -> None:
    ones = torch.ones(3, 5, 4)
    last = ones.clone()
    last[2] = 2
    assert content_digest(_subject(ones)) != content_digest(_subject(last))


def test_a_model_that_is_known_is_not_asked_about_empty_rows() -> None:
    subject = replace(_subject(), given={}, special_rows=False)
    assert not _golden(subject).further
