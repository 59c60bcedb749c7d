"""Roles: registers by declaration, outliers by the reference's norms; errors of one role do not hide in another."""

from __future__ import annotations

import numpy as np
import pytest

from dsr_export.errors import ExportError
from dsr_export.sites.errors import SiteError
from dsr_export.sites.tap_file import GRAPH, ReferenceTap
from dsr_export.sites.token_roles import RegisterRows, role_statistics
from dsr_export.spec import DenoiserSpec, DsrSpec, EncoderSpec
from graphs.observe.sites import Site
from graphs.observe.tap_samples import OUTER_VALUES, Sample


def _site(group: str, tokens: int) -> Site:
    return Site(tensor=group, module=group, group=group, shape=(tokens, 8), outer=True)


SITES = [_site("embedder", 10), *(_site(f"blocks.{i}", 10 if i < 2 else 12) for i in range(4)), _site("head", 10)]
DENOISER = DsrSpec(denoiser=DenoiserSpec(kind="diffusion", registers=2, start=2)).as_dict()


def test_diffusion_registers_come_first_from_their_block_on() -> None:
    rows = RegisterRows.of(DENOISER, SITES)
    assert not rows.mask(SITES[2], 10).any()
    assert rows.mask(SITES[3], 12).tolist() == [True, True] + [False] * 10


def test_they_come_behind_the_prompt_where_both_are_one_sequence() -> None:
    """Four of the prompt's tokens, two registers, eight of the image's."""
    dsr = DsrSpec(denoiser=DenoiserSpec(kind="diffusion", registers=2, start=0, rows={14: 4})).as_dict()
    rows = RegisterRows.of(dsr, [_site("double.0", 10), _site("single.0", 14)])
    assert rows.mask(_site("double.0", 10), 10).tolist() == [True, True] + [False] * 8
    assert rows.mask(_site("single.0", 14), 14).tolist() == [False] * 4 + [True, True] + [False] * 8
    with pytest.raises(ExportError, match="gives rows as"):
        RegisterRows.of({"denoiser": {**dsr["denoiser"], "rows": {"14": "4"}}}, [_site("single.0", 14)])


def test_test_time_registers_come_last() -> None:
    dsr = DsrSpec(encoder=EncoderSpec(kind="test-time", registers=3, neurons={0: (1,)})).as_dict()
    rows = RegisterRows.of(dsr, [_site("layers.0", 12), _site("layers.1", 12)])
    assert rows.mask(_site("layers.1", 12), 12).tolist() == [False] * 9 + [True] * 3


def test_a_model_without_registers_has_none() -> None:
    assert not RegisterRows.of(DsrSpec().as_dict(), SITES).mask(SITES[3], 12).any()


def test_errors_are_told_apart_by_role(rng: np.random.Generator) -> None:
    truth = rng.standard_normal((2, 12, 8)).astype(np.float32)
    truth[:, 5] *= 50
    candidate = truth.copy()
    candidate[:, 1] += 3.0  # a register
    candidate[0, 5] *= 1.1  # an outlier of one image: a tenth of its signal
    reference = ReferenceTap(SITES[3], Sample.of(truth, OUTER_VALUES), GRAPH)
    found = role_statistics(
        SiteError(reference, Sample.of(candidate, OUTER_VALUES), 0.0), RegisterRows.of(DENOISER, SITES)
    )
    assert {role: figures["tokens"] for role, figures in found.items()} == {"register": 4, "outlier": 2, "patch": 18}
    assert found["register"]["max_abs"] == pytest.approx(3.0, abs=1e-5)
    assert 20 < found["outlier"]["snr_db"] < 30
    assert found["patch"]["snr_db"] == 300.0


def test_nan_is_said_and_not_measured() -> None:
    truth = np.ones((1, 12, 8), np.float32)
    reference = ReferenceTap(SITES[3], Sample.of(truth, OUTER_VALUES), GRAPH)
    bad = SiteError(reference, Sample.of(truth * np.float32(np.nan), OUTER_VALUES), -300.0)
    found = role_statistics(bad, RegisterRows.of(DENOISER, SITES))
    assert found["patch"]["max_abs"] is None and "NaN" in found["patch"]["problem"]
