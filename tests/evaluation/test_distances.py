"""FID against scipy's matrix square root in float64, the Inception Score against its definition."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from dsr_export.errors import ExportError
from dsr_export.evaluation.distances import class_shares, frechet_distance, inception_score
from dsr_export.evaluation.moments import Moments


def _by_scipy(a: Moments, b: Moments) -> float:
    root = np.real(sqrtm(a.covariance @ b.covariance))
    return float(np.square(a.mean - b.mean).sum() + np.trace(a.covariance + b.covariance - 2 * root))


@settings(max_examples=30, deadline=None)
@given(width=st.integers(1, 24), apart=st.floats(0.01, 5), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 999))
def test_the_distance_is_that_of_an_independent_implementation(
    width: int, apart: float, scale: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((width, width))
    one = Moments.of(scale * rng.standard_normal((4 * width + 9, width)) @ mixing)
    other = Moments.of(scale * (rng.standard_normal((3 * width + 7, width)) + apart))
    assert frechet_distance(one, other) == pytest.approx(_by_scipy(one, other), rel=1e-6)


@pytest.mark.parametrize("far", [0.0, 1e4, 1e6, -1e8])
def test_a_distance_does_not_see_how_far_from_zero_both_are(far: float) -> None:
    rng = np.random.default_rng(0)
    one, other = (Moments.of(rng.standard_normal((60, 8)) + shift) for shift in (0.0, 0.1))
    moved = (replace(each, mean=each.mean + far) for each in (one, other))
    assert frechet_distance(*moved) == pytest.approx(_by_scipy(one, other), rel=1e-6)


@pytest.mark.parametrize("change", [
    lambda one: replace(one, mean=one.mean + 1e200),
    lambda one: replace(one, mean=one.mean + np.inf),
    lambda one: replace(one, mean=one.mean * np.nan),
    lambda one: replace(one, scatter=one.scatter * 1e200),
    lambda one: replace(one, scatter=one.scatter * np.inf),
    lambda one: replace(one, scatter=one.scatter * 1e300, mean=one.mean * 1e153),
])  # fmt: skip
def test_a_distance_that_overflows_is_refused(
    change: Callable[[Moments], Moments], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before an eigenvalue is asked for: some of MKL's routines end the process over infinities, on some days."""
    one = Moments.of(np.random.default_rng(0).standard_normal((60, 8)))
    monkeypatch.setattr(torch.linalg, "eigvals", lambda matrix: pytest.fail("LAPACK was called"))
    for pair in ((one, change(one)), (change(one), one)):
        with pytest.raises(ExportError, match="so large"):
            frechet_distance(*pair)


@given(scale=st.floats(-150, 308), apart=st.floats(-150, 308), count=st.integers(10, 10**9))
def test_lapack_is_given_finite_numbers_only(scale: float, apart: float, count: int) -> None:
    rng = np.random.default_rng(0)
    one = Moments(count, np.zeros(8), 10.0**scale * np.cov(rng.standard_normal((8, 20))))
    other = Moments(count, np.full(8, 10.0**apart), 10.0**scale * np.eye(8))

    def checked(matrix: torch.Tensor) -> torch.Tensor:
        assert matrix.isfinite().all()
        return torch.zeros(8, dtype=torch.complex128)

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(ExportError):
        patch.setattr(torch.linalg, "eigvals", checked)
        frechet_distance(one, other)


def test_one_distance_after_the_other() -> None:
    rng = np.random.default_rng(0)
    one, other, third = (Moments.of(rng.standard_normal((60, 8)) + shift) for shift in (0.0, 1.0, 3.0))
    for pair in ((one, other), (one, third), (other, third)):
        assert frechet_distance(*pair) == pytest.approx(_by_scipy(*pair), rel=1e-6)


def test_equal_populations_are_at_no_distance() -> None:
    one = Moments.of(np.random.default_rng(0).standard_normal((100, 8)))
    assert 0 <= frechet_distance(one, one) < 1e-9


@pytest.mark.parametrize("count", [1, 7, 8])
def test_too_few_pictures_are_refused_with_the_number_needed(count: int) -> None:
    rng = np.random.default_rng(0)
    few, many = (Moments.of(rng.standard_normal((rows, 8))) for rows in (count, 100))
    for pair in ((few, many), (many, few)):
        with pytest.raises(ExportError, match=rf"{count} pictures.* too few") as caught:
            frechet_distance(*pair)
        assert "more than 8" in str(caught.value.hint)


def test_features_of_two_networks_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ExportError, match="width 3 against data of width 4"):
        frechet_distance(*(Moments.of(rng.standard_normal((50, width))) for width in (3, 4)))


def test_the_inception_score_is_its_definition() -> None:
    logits = np.random.default_rng(0).standard_normal((200, 7)) * 3
    shares, entropies = class_shares(logits)
    plain = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    divergence = (plain * np.log(plain / plain.mean(axis=0))).sum(axis=1).mean()
    assert inception_score(shares.mean(axis=0), float(entropies.mean())) == pytest.approx(np.exp(divergence), rel=1e-12)


def test_classes_that_are_sure_and_even_score_their_number() -> None:
    shares, entropies = class_shares(1000 * np.eye(5)[np.arange(50) % 5])
    assert inception_score(shares.mean(axis=0), float(entropies.mean())) == pytest.approx(5, rel=1e-12)
