"""Quantiles against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from dsr_export.samplers.beta_distribution import beta_quantiles


@pytest.mark.parametrize("shape", [0.6, 0.3, 0.9])
def test_quantiles_equal_those_of_scipy(shape: float) -> None:
    shares = np.concatenate([1 - np.linspace(0, 1, 53), np.geomspace(1e-12, 0.5, 20), [0.5, 1 - 1e-9]])
    np.testing.assert_allclose(beta_quantiles(shares, shape), beta.ppf(shares, shape, shape), rtol=1e-12, atol=1e-15)
    assert beta_quantiles(np.array([0.0, 1.0]), shape).tolist() == [0.0, 1.0]
