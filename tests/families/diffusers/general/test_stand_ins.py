"""What stands in for code that has no graph computes the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from dsr_export.families.diffusers.general import adapter
from tests.families.diffusers.general.tiny import bare_folder, loaded

pytest.importorskip("diffusers", reason="the models extra is not installed")

CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "HiDreamImageTransformer2DModel": {
        "patch_size": 2,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "caption_channels": [12, 10],
        "text_emb_dim": 6,
        "num_routed_experts": 4,
        "num_activated_experts": 2,
        "axes_dims_rope": [4, 2, 2],
        "max_resolution": [16, 16],
        "llama_layers": [0, 2],
    },
    "MochiTransformer3DModel": {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 2,
        "in_channels": 4,
        "time_embed_dim": 8,
        "pooled_projection_dim": 10,
        "text_embed_dim": 16,
        "max_sequence_length": 7,
    },
    "AnyFlowFARTransformer3DModel": {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": 10,
        "freq_dim": 16,
        "ffn_dim": 24,
        "num_layers": 1,
        "rope_max_seq_len": 32,
        "chunk_partition": [1, 2],
    },
}
SIZES = {
    "HiDreamImageTransformer2DModel": {"latent_height": 8, "latent_width": 12},
    "MochiTransformer3DModel": {"latent_height": 8, "latent_width": 8, "latent_frames": 2},
    "AnyFlowFARTransformer3DModel": {"latent_height": 8, "latent_width": 8, "latent_frames": 3},
}


@pytest.mark.filterwarnings("ignore:flex_attention called without", "ignore:In CPU autocast")
@pytest.mark.parametrize("class_name", CONFIGS)
def test_the_numbers_are_diffusers_own(class_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bare_folder(tmp_path / "model", class_name, CONFIGS[class_name])
    subject = loaded(folder, random_weights=0, options={**SIZES[class_name], "text_tokens": 7})
    inputs = [torch.from_numpy(value) for value in subject.example(3, seed=5).values()]
    with torch.no_grad():
        made = subject.module(*inputs)
        monkeypatch.setattr(adapter, "standing_in", lambda transformer: nullcontext())
        own = subject.module(*inputs)
    assert own.std() > 0.01
    torch.testing.assert_close(made, own, rtol=0, atol=2e-5)


def test_a_picture_is_expected_where_the_config_says_so(tmp_path: Path) -> None:
    sizes = {"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1}
    sizes |= {"num_refiner_layers": 1, "text_embed_dim": 12, "text_embed_2_dim": 10, "image_embed_dim": 6}
    for task, expected in (("t2v", False), ("i2v", True)):
        config = {**sizes, "rope_axes_dim": [2, 2, 4], "task_type": task}
        folder = bare_folder(tmp_path / task, "HunyuanVideo15Transformer3DModel", config)
        subject = loaded(folder, random_weights=0, options={"latent_height": 2, "latent_width": 2, "text_tokens": 3})
        assert ("image_embeds" in {spec.name for spec in subject.inputs}) is expected
