from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dsr_export.diagnosis.measures.attention import AttentionProbe, AttentionStats, received


def test_shares_are_those_of_the_definition() -> None:
    query, key = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    columns = ((query @ key.transpose(-1, -2)) / 2).softmax(dim=-1).mean(dim=(1, 2)) * 5
    np.testing.assert_allclose(received(query, key), columns.numpy(), atol=1e-6)
    np.testing.assert_allclose(received(query, key).mean(axis=1), 1.0)


def test_equal_keys_share_evenly_and_a_strong_one_takes_all() -> None:
    query, key = torch.ones(1, 1, 4, 2), torch.ones(1, 1, 4, 2)
    np.testing.assert_allclose(received(query, key), 1.0)
    key[0, 0, 2] = 100.0
    np.testing.assert_allclose(received(query, key), [[0, 0, 4, 0]], atol=1e-6)


def test_masked_keys_receive_nothing() -> None:
    query = torch.randn(1, 2, 3, 4)
    seen = torch.tensor([True, False, True]).expand(3, 3)
    for mask in (seen, torch.zeros(1, 1, 3, 3).masked_fill(~seen, -torch.inf)):
        share = received(query, query, mask)
        assert share[0, 1] == 0
        assert share.sum() == pytest.approx(3)


def test_the_probe_sees_calls_and_changes_none() -> None:
    seen: list[np.ndarray] = []
    q, k, v = torch.randn(3, 2, 2, 6, 4)
    plain = F.scaled_dot_product_attention(q, k, v, scale=0.3)
    with AttentionProbe(seen.append):
        watched = F.scaled_dot_product_attention(q, k, v, scale=0.3)
    F.scaled_dot_product_attention(q, k, v)
    assert torch.equal(plain, watched)
    assert len(seen) == 1
    np.testing.assert_allclose(seen[0], received(q, k, scale=0.3))


def test_means_are_over_images() -> None:
    stats = AttentionStats(2)
    stats.add(1, np.array([[1.0, 3.0], [2.0, 2.0]]))
    stats.add(1, np.array([[0.0, 4.0]]))
    first, second = stats.means
    assert first is None
    assert second is not None
    assert second.tolist() == [1.0, 3.0]
