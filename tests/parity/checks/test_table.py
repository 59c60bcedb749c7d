"""The candidate's last state is kept, so that a report can show it."""

from __future__ import annotations

from types import TracebackType

import numpy as np

from dsr_export.errors import RunnerError
from dsr_export.parity.checks.table import ParityReport, check_parity
from dsr_export.parity.golden.vectors import Case, Golden, ReferenceTrajectory
from dsr_export.parity.tolerances import TOLERANCES
from dsr_export.sampling import SamplerSpec, trajectory

SAMPLER = SamplerSpec(num_steps=4, prediction="data")


class Scaled:
    """A denoiser that predicts a multiple of its input, and fails after some calls."""

    name = "fake"

    def __init__(self, factor: float, calls: int = 1000) -> None:
        self.factor, self.calls = np.float32(factor), calls

    def __enter__(self) -> Scaled:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, t: TracebackType | None) -> None:
        pass

    def infer(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.calls -= 1
        if self.calls < 0:
            raise RunnerError("out of calls")
        return {"out": inputs["x"] * self.factor}


def _report(candidate: Scaled) -> ParityReport:
    noise = np.random.default_rng(0).standard_normal((2, 1, 4, 4)).astype(np.float32)
    labels, reference = np.arange(2), Scaled(0.5)
    states = np.stack([s.state for s in trajectory(lambda i: reference.infer(i)["out"], SAMPLER, noise, labels)])
    inputs = {"x": noise, "t": np.ones(2, np.float32), "y": labels}
    golden = Golden({2: Case(inputs, reference.infer(inputs))}, ReferenceTrajectory(noise, labels, states))
    return check_parity(candidate, golden, SAMPLER, TOLERANCES["fp32"], lambda *_: None)


def test_the_last_state_is_the_candidates_own() -> None:
    same, other = _report(Scaled(0.5)), _report(Scaled(0.4))
    assert same.passed and not other.passed
    assert same.sample is not None and other.sample is not None
    assert same.sample.shape == (2, 1, 4, 4)
    assert not np.allclose(same.sample, other.sample)


def test_a_run_that_breaks_off_has_no_sample() -> None:
    broken = _report(Scaled(0.5, calls=4))  # enough for the batches, and one step
    assert broken.sample is None
    assert broken.rows[-1].comparison.problem == "out of calls"
    assert len(broken.trajectory_snr_db) == 1


def test_a_row_that_is_nan_in_the_reference_is_nan_here_and_others_are_compared() -> None:
    """Row 0 has nothing to attend to, say: equal rows are then tried with one that makes numbers."""
    x = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    x[0] = np.nan
    golden = Golden({size: Case({"x": x[:size]}, Scaled(0.5).infer({"x": x[:size]})) for size in (2, 4)}, None)
    report = check_parity(Scaled(0.5), golden, None, TOLERANCES["fp32"], lambda *_: None)
    assert report.passed
    assert {row.reference for row in report.rows if row.check == "rows"} == {"row 1"}
    golden.cases[4].inputs["x"][0] = 1.0
    assert not check_parity(Scaled(0.5), golden, None, TOLERANCES["fp32"], lambda *_: None).passed
