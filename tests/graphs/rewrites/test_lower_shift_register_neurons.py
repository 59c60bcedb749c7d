"""The lowered neuron shift against the in-place PyTorch semantics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dsr_export.register_ops.neuron_shift import shift_register_neurons
from graphs.errors import ExportError
from tests.graphs.symbolic import lowered, session, shift_neurons_model

MODES = ["zero", "mean", "only_outliers", "same"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scale", [[1.0], [0.5, 2.0]])
def test_matches_the_in_place_form(mode: str, scale: list[float], tmp_path: Path, rng: np.random.Generator) -> None:
    neurons = [2, 7, 7, 11]
    values = {"neurons": neurons, "registers": len(scale), "scale": scale, "normal_values": mode}
    run = session(lowered(shift_neurons_model(10, 16, **values), tmp_path)[0])
    for sign in (1, -1):
        a = (rng.standard_normal((3, 10, 16)) + 2 * sign).astype(np.float32)
        expected = shift_register_neurons(torch.from_numpy(a), neurons, len(scale), scale, mode).numpy()
        got = run.run(None, {"a": a})[0]
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(got[:, 0], a[:, 0])
        assert (got[:, -1, [2, 7, 11]] != a[:, -1, [2, 7, 11]]).all()


def test_infinities_in_quieted_cells_leave_no_nan(tmp_path: Path, rng: np.random.Generator) -> None:
    values = {"neurons": [1], "registers": 1, "scale": [1.0], "normal_values": "zero"}
    run = session(lowered(shift_neurons_model(6, 4, **values), tmp_path)[0])
    a = rng.standard_normal((1, 6, 4)).astype(np.float32)
    a[0, 2, 1] = np.inf
    expected = shift_register_neurons(torch.from_numpy(a), [1], 1, [1.0], "zero").numpy()
    np.testing.assert_array_equal(run.run(None, {"a": a})[0], expected)


def test_neurons_beyond_the_width_are_refused(tmp_path: Path) -> None:
    values = {"neurons": [3, 16], "registers": 1, "scale": [1.0], "normal_values": "zero"}
    with pytest.raises(ExportError, match=r"neurons \[16\] lie outside the width 16"):
        lowered(shift_neurons_model(6, 16, **values), tmp_path)
