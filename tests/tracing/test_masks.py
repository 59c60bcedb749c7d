"""Every form of mask in every precision: PyTorch's numbers, and NaN and infinities exactly where PyTorch has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dsr_export.backends.opening import typed_runner
from dsr_export.subjects.module import subject_from
from graphs.artifacts import LoweredModel
from graphs.lowering import optimize
from graphs.mixed_precision.islands import PrecisionPolicy
from graphs.mixed_precision.typed import assign_precision
from graphs.precisions import Precision
from tests.mask_forms import FORMS, AllForms, mask_inputs

Array = npt.NDArray[Any]
ATOL: Mapping[Precision, float] = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 8e-2}
Made = Callable[[Precision], Mapping[str, Array]]


@pytest.fixture(scope="module")
def expected() -> Mapping[str, Array]:
    return {name: made.numpy() for name, made in AllForms(FORMS)(*mask_inputs().values()).items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """What the typed graph of all forms makes, in each precision; no range was audited, so that types are not luck."""
    folder, inputs = tmp_path_factory.mktemp("masks"), mask_inputs()
    subject = subject_from((AllForms(FORMS).eval(), inputs), name="masks", called="masks", provenance={})
    lowered = LoweredModel(path=subject.trace(folder / "traced.onnx").path)
    optimized, _ = optimize(lowered, folder / "optimized.onnx")
    done: dict[Precision, Mapping[str, Array]] = {}

    def run(precision: Precision) -> Mapping[str, Array]:
        if precision not in done:
            typed, _ = assign_precision(optimized, folder / f"{precision}.onnx", precision, PrecisionPolicy())
            with typed_runner(typed.path, subject.inputs, precision) as runner:
                done[precision] = runner.infer({name: value.numpy() for name, value in inputs.items()})
        return done[precision]

    return run


@pytest.mark.parametrize("precision", ATOL)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_pytorchs(form: str, precision: Precision, made: Made, expected: Mapping[str, Array]) -> None:
    np.testing.assert_allclose(made(precision)[form], expected[form], rtol=0, atol=ATOL[precision])
