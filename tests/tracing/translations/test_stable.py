"""Functions whose plain formulas lose small values or overflow: PyTorch's digits at every magnitude."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from tests.traced_modules import subject_of

MAGNITUDES = torch.tensor(
    [
        *(0.0, 1e-38, 1e-30, 1e-20, 1e-12, 1e-9, 1e-7, 1e-5, 1e-3, 0.1, 0.49, 0.51),
        *(1.25, 2, 5, 20, 80, 88.6, 100, 1e4, 1e9, 1e20, 1e30, torch.inf),
    ]  # 1 is log2(2): PyTorch's -1 + 1 is not 0
)
VALUES = torch.cat([MAGNITUDES, -MAGNITUDES, torch.tensor([torch.nan] * 8)])  # 56, of which 7 [8]
ONE: dict[str, Callable[[Tensor], Tensor]] = {
    "log1p": torch.log1p,
    "special_log1p": torch.special.log1p,
    "expm1": torch.expm1,
    "special_expm1": torch.special.expm1,
    "logsigmoid": F.logsigmoid,
    "softplus": F.softplus,
    "elu": lambda x: F.elu(x, 0.7),
    "celu": lambda x: F.celu(x, 1.5),
    "selu": F.selu,
}
TWO: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "logaddexp": torch.logaddexp,
    "logaddexp2": torch.logaddexp2,
    "xlogy": torch.xlogy,
    "xlog1py": torch.special.xlog1py,
    "hypot": torch.hypot,
    "atan2": torch.atan2,
}
ROWS: dict[str, Callable[[Tensor], Tensor]] = {
    "logsumexp": lambda x: torch.logsumexp(x, -1, keepdim=True),
    "logsumexp_flat": lambda x: torch.logsumexp(x, 2)[..., None],
}


def _all(s: object, x: Tensor) -> dict[str, Tensor]:
    """x [B, 6, 8]: every function of its elements, of all pairs of the first row with the others, and of its rows."""
    one = {name: made(x) for name, made in ONE.items()}
    two = {name: made(x[:, :1].unsqueeze(-1), x.unsqueeze(-2)) for name, made in TWO.items()}
    return {**one, **two, **{name: made(x) for name, made in ROWS.items()}}


def _inputs() -> np.ndarray:
    """[5, 6, 8]: values in order, shuffled, and signed zeros with infinities in the row that pairs are made with."""
    shuffled = torch.stack([VALUES[torch.randperm(56, generator=torch.Generator().manual_seed(i))] for i in range(3)])
    firsts = torch.tensor(
        [[0.0, -0.0, 1.25, -1.25, torch.inf, -torch.inf, torch.nan, 1e-9], [3e4, -3e4, 88, 2, 0, 1.5, -2, 5]]
    )
    made = torch.cat([VALUES[None], VALUES.flip(0)[None], shuffled])[:, :48].reshape(5, 6, 8).clone()
    made[:2, 0] = firsts
    made[3, 2], made[3, 3] = -torch.inf, 300.0
    return made.numpy()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """PyTorch's and ours."""
    subject = subject_of(_all)
    traced = subject.trace(tmp_path_factory.mktemp("stable") / "traced.onnx")
    with subject.reference() as reference, OnnxRuntimeRunner(traced.path, inputs=subject.inputs) as runner:
        return reference.infer({"x": _inputs()}), runner.infer({"x": _inputs()})


@pytest.mark.parametrize("name", [*ONE, *TWO, *ROWS])
def test_every_magnitude_has_pytorchs_digits(
    name: str, results: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
) -> None:
    expected, made = (each[name] for each in results)
    np.testing.assert_allclose(made, expected, rtol=2e-5, atol=2e-38)
