"""`nn.MultiheadAttention` and `nn.TransformerEncoder` in eval mode: the reference takes the path of the trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.subjects.module import subject_from
from dsr_export.tracing.traced_path import traced_path

PADDING = torch.tensor([[False] * 3 + [True] * 2, [False] * 2 + [True] * 3, [True] * 5])  # the last row is nothing else


class Padded(nn.Module):
    """An encoder, a layer and bare attention over tokens [B, 5, 16], of which `padding` [B, 5] closes some."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: Tensor, padding: Tensor) -> dict[str, Tensor]:
        bare = self.attention(x, x, x, key_padding_mask=padding, need_weights=False)[0]
        layer = self.layer(x, src_key_padding_mask=padding)
        return {"bare": bare, "layer": layer, "encoder": self.encoder(x, src_key_padding_mask=padding)}


def test_rows_of_padding_only_are_those_of_the_trace(tmp_path: Path) -> None:
    inputs = {"x": torch.randn(3, 5, 16), "padding": PADDING}
    subject = subject_from((Padded().eval(), inputs), name="padded", called="padded", provenance={})
    traced = subject.trace(tmp_path / "traced.onnx")
    feeds: dict[str, Any] = {name: value.numpy() for name, value in inputs.items()}
    with subject.reference() as reference, OnnxRuntimeRunner(traced.path, inputs=subject.inputs) as runner:
        expected, made = reference.infer(feeds), runner.infer(feeds)
    for name, value in expected.items():
        assert value.shape == (3, 5, 16) and np.isfinite(value).all()
        np.testing.assert_allclose(made[name], value, atol=1e-5)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_callers_choice_comes_back(enabled: bool) -> None:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(enabled)
    try:
        with pytest.raises(ValueError, match="stops"), traced_path():
            raise ValueError("stops" if not torch.backends.mha.get_fastpath_enabled() else "is fused")
        assert torch.backends.mha.get_fastpath_enabled() is enabled
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
