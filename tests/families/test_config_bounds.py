"""Configurations that ask for sizes no model has are refused before a module is made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dsr_export.errors import ExportError
from dsr_export.families import config_bounds, load_subject
from dsr_export.families.config_bounds import check_config, check_memory, check_stored
from dsr_export.families.diffusers.files import open_folder
from dsr_export.families.encoders.vision_families import check_folder

SD35 = {"sample_size": 128, "pos_embed_max_size": 384, "patch_size": 2, "num_layers": 38, "num_attention_heads": 38}
HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "wide": ({"hidden_size": 10**9}, "hidden_size is 1000000000"),
    "deep": ({"num_layers": 10**9}, "num_layers is 1000000000, and at most 1,024"),
    "deep within": ({"vision_config": {"num_hidden_layers": 10**6}}, "num_hidden_layers is 1000000"),
    "listed": ({"axes_dims_rope": [16, 10**9]}, "axes_dims_rope is 1000000000"),
    "negative": ({"num_layers": -(10**9)}, "num_layers is -1000000000"),
    "large pictures": ({"sample_size": 10**9}, "sample_size is 1000000000"),
    "no patch": ({"patch_size": 0}, "patch_size is 0, but must be at least 1"),
    "no heads": ({"num_attention_heads": 0}, "must be at least 1"),
    "a wide MLP": ({"mlp_ratio": 1e9}, "mlp_ratio"),
    "no number": ({"mlp_ratio": float("nan")}, "mlp_ratio"),
    "a large table": ({"image_size": 16384, "patch_size": 1, "hidden_size": 768}, "positions of 768 channels"),
    "a large table within": (
        {"vision_config": {"image_size": 16384, "patch_size": 4, "hidden_size": 768}},
        "positions",
    ),
    "endless digits": ({"hidden_size": 10**5000}, "hidden_size is"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_size_that_no_model_has_is_named(case: str) -> None:
    config, message = HOSTILE[case]
    with pytest.raises(ExportError, match=message) as refused:
        check_config(config, "config.json")
    assert refused.value.hint


def test_sizes_of_released_models_are_taken() -> None:
    check_config({**SD35, "attention_head_dim": 64, "num_single_layers": 0, "sample_size": 128, "note": None}, "SD3.5")
    check_config({"vocab_size": 256000, "image_token_id": -1, "image_size": 512, "patch_size": 16}, "SigLIP")


def test_positions_along_one_axis_are_no_square() -> None:
    heads = {"num_attention_heads": 12, "attention_head_dim": 256}
    check_config({**heads, "num_mmdit_layers": 4, "pos_embed_max_size": 9216, "patch_size": 2}, "AuraFlow")
    check_config({**heads, "global_states_input_dim": 1536, "sample_size": 1024}, "Stable Audio")
    with pytest.raises(ExportError, match="positions of 3072 channels"):
        check_config({**heads, "pos_embed_max_size": 9216, "patch_size": 2}, "another")


def test_weights_that_memory_or_files_cannot_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_bounds, "_memory", lambda: 2**30)
    check_memory(2**28, "it")
    with pytest.raises(ExportError, match=r"takes 2\.0 GB of weights, and this machine has 1\.0 GB"):
        check_memory(2**29, "it")
    check_stored(86_000_000, 172_000_000, "config.json")
    with pytest.raises(ExportError, match="describes 86,000,000 weights, and the files beside it have 1,000 bytes"):
        check_stored(86_000_000, 1000, "config.json")


def test_folders_are_refused_by_their_config(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov2", "hidden_size": 10**9}))
    with pytest.raises(ExportError, match=r"config\.json: hidden_size is 1000000000"):
        check_folder("dinov2", tmp_path)


def test_a_diffusers_folder_is_refused_before_its_class_is_looked_for(tmp_path: Path) -> None:
    config = {"_class_name": "SD3Transformer2DModel", "sample_size": 10**9, "num_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match=r"config\.json: sample_size is 1000000000"):
        open_folder(tmp_path)


def test_a_model_of_any_size_is_not_made_of_sizes_beyond_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_bounds, "_memory", lambda: 2**30)
    with pytest.raises(ExportError, match="GB of weights"):
        load_subject("rae-dit", random_weights=0, hidden_size=8192, depth=2, num_heads=64)
    with pytest.raises(ExportError, match="mlp_ratio"):
        load_subject("dit", random_weights=0, hidden_size=64, depth=2, num_heads=4, mlp_ratio=1e9)
    with pytest.raises(ExportError, match="hidden_size is 1000000000"):
        load_subject("siglip", random_weights=0, hidden_size=10**9)
    with pytest.raises(ExportError, match="num_layers is 1000000000"):
        load_subject("sd3", random_weights=0, num_layers=10**9, num_attention_heads=2, attention_head_dim=8)
