"""Token norms of a golden case: patches only, and which of them were replaced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dsr_export.parity.golden.vectors import Case, Golden
from dsr_export.sites.token_norms import measure_token_norms, patch_rows
from dsr_export.subject import SubjectCard
from graphs.artifacts import OptimizedModel, TensorSpec
from tests.graphs.symbolic import lowered, replace_outliers_model

DIM, REGISTERS, PATCHES = 8, 2, 9


def _card() -> SubjectCard:
    x = TensorSpec(name="x", dtype="float32", shape=("batch", REGISTERS + PATCHES, DIM))
    dsr = {"denoiser": {"registers": REGISTERS}}
    names = {"name": "m", "family": "f", "num_classes": 0, "parameters": 1, "config": {}, "provenance": {}}
    return SubjectCard(inputs=(x,), outputs=(x,), dsr=dsr, sites={}, sampler=None, fp32_modules=(), **names)


def test_norms_are_of_patches_and_in_the_images_order(tmp_path: Path, rng: np.random.Generator) -> None:
    registers = rng.standard_normal((2, DIM)).astype(np.float32)
    site = {"rule": "absolute", "threshold": 20.0, "rounds": 1, "choice": "nearest", "exclude": (0, 1)}
    model, _ = lowered(replace_outliers_model(REGISTERS + PATCHES, registers, **site), tmp_path)
    x = rng.standard_normal((6, REGISTERS + PATCHES, DIM)).astype(np.float32)
    x[2, REGISTERS + 4] *= 100
    x[1, 0] *= 100  # a register: neither a patch nor examined
    x[3, REGISTERS + 1] = np.inf
    cases = {size: Case({"x": x[:size]}, {"out": x[:size]}) for size in (1, 6)}
    found = measure_token_norms(OptimizedModel(path=model.path), _card(), Golden(cases, None), tmp_path)
    assert found is not None
    assert (found["case"], found["times"]) == ("batch-6", [])
    (made,) = found["sites"]
    assert made["replaced"] == [[], [], [4], [1]]
    before = np.array([[np.nan if norm is None else norm for norm in row] for row in made["before"]])
    assert before.shape == (4, PATCHES)
    with np.errstate(invalid="ignore"):
        truth = np.linalg.norm(x[:4, REGISTERS:], axis=2)
    truth[3, 1] = np.nan  # infinite, which JSON has no form for
    np.testing.assert_allclose(before, truth, rtol=1e-4)
    sizes = np.linalg.norm(registers, axis=1)
    assert min(abs(made["after"][2][4] - size) for size in sizes) < 1e-3
    assert not list(tmp_path.glob("tapped*"))


@pytest.mark.parametrize(
    ("tokens", "registers", "rows"),
    [
        (68, 4, slice(4, 68)),
        (64, 4, slice(0, 64)),  # in front of the block where registers join
        (64, 0, slice(0, 64)),
        (77, 4, slice(4, 77)),  # neither is a square: the registers are there all the same
        (3, 4, slice(0, 3)),
    ],
)
def test_which_rows_are_patches(tokens: int, registers: int, rows: slice) -> None:
    assert patch_rows(tokens, registers) == rows
