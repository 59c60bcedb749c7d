"""Tiny transformers of classes that the general adapter takes, of our own sizes, and how pipelines call them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsr_export.families import FamilyRequest
from dsr_export.families.diffusers.files import open_folder
from dsr_export.families.diffusers.models import load_folder
from dsr_export.subject import Subject

HEADS = {"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 1}
PACKED = {**HEADS, "attention_head_dim": 16, "in_channels": 8, "joint_attention_dim": 20, "axes_dims_rope": [4, 6, 6]}
GRID = {"latent_height": 4, "latent_width": 6}


@dataclass(frozen=True)
class Tiny:
    """`beside` makes, for inputs by name, what a pipeline gives beside them or in their place."""

    config: Mapping[str, Any]
    options: Mapping[str, int]
    inputs: Mapping[str, tuple[int, ...]]
    beside: Callable[[dict[str, Tensor]], dict[str, Any]] = field(default=lambda inputs: {})


def _flux2(inputs: dict[str, Tensor]) -> dict[str, Any]:
    picture = [[0, row, column, 0] for row in range(2) for column in range(3)]
    return {"img_ids": torch.tensor(picture), "txt_ids": torch.tensor([[0, 0, 0, i] for i in range(5)])}


def _whole_prompts(inputs: dict[str, Tensor]) -> dict[str, Any]:
    return {"encoder_attention_mask": torch.ones(inputs["encoder_hidden_states"].shape[:2], dtype=torch.bool)}


def _lists(inputs: dict[str, Tensor]) -> dict[str, Any]:
    return {"x": list(inputs["x"]), "cap_feats": list(inputs["cap_feats"])}


TINY: Mapping[str, Tiny] = {
    "WanTransformer3DModel": Tiny(  # as for a picture to begin with: CLIP's tokens, and a mask in the latent
        {**HEADS, "in_channels": 9, "out_channels": 4, "text_dim": 20, "freq_dim": 16, "ffn_dim": 32, "image_dim": 18}
        | {"added_kv_proj_dim": 24, "rope_max_seq_len": 16},
        {**GRID, "latent_frames": 2, "text_tokens": 5},
        {
            "hidden_states": (9, 2, 4, 6),
            "timestep": (),
            "encoder_hidden_states": (5, 20),
            "encoder_hidden_states_image": (257, 18),
        },
    ),
    "Flux2Transformer2DModel": Tiny(
        {**PACKED, "num_single_layers": 1, "axes_dims_rope": [4, 4, 4, 4], "timestep_guidance_channels": 16},
        {**GRID, "text_tokens": 5},
        {"hidden_states": (6, 8), "encoder_hidden_states": (5, 20), "timestep": (), "guidance": ()},
        _flux2,
    ),
    "QwenImageTransformer2DModel": Tiny(  # whose patch_size is its pipeline's
        {**PACKED, "out_channels": 2, "patch_size": 2},
        {**GRID, "text_tokens": 5},
        {
            "hidden_states": (6, 8),
            "encoder_hidden_states": (5, 20),
            "encoder_hidden_states_mask": (5,),
            "timestep": (),
        },
        lambda inputs: {"img_shapes": [[(1, 2, 3)]] * len(inputs["hidden_states"])},
    ),
    "Lumina2Transformer2DModel": Tiny(  # which works row by row
        {"sample_size": 8, "in_channels": 4, "hidden_size": 48, "num_layers": 1, "num_refiner_layers": 1}
        | {"num_attention_heads": 2, "num_kv_heads": 1, "multiple_of": 4, "axes_dim_rope": [8, 8, 8]}
        | {"axes_lens": [24, 16, 16], "cap_feat_dim": 20},
        {},
        {"hidden_states": (4, 8, 8), "timestep": (), "encoder_hidden_states": (12, 20)},
        _whole_prompts,
    ),
    "ZImageTransformer2DModel": Tiny(  # which takes a list of samples
        {"in_channels": 4, "dim": 48, "n_layers": 1, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2}
        | {"cap_feat_dim": 20, "axes_dims": [8, 8, 8], "axes_lens": [128, 16, 16]},
        {**GRID, "text_tokens": 5},
        {"x": (4, 1, 4, 6), "t": (), "cap_feats": (5, 20)},
        _lists,
    ),
    "SanaTransformer2DModel": Tiny(
        {**HEADS, "in_channels": 4, "out_channels": 4, "num_cross_attention_heads": 2, "cross_attention_head_dim": 12}
        | {"cross_attention_dim": 24, "caption_channels": 20, "sample_size": 4, "guidance_embeds": True},
        {"text_tokens": 5},
        {
            "hidden_states": (4, 4, 4),
            "encoder_hidden_states": (5, 20),
            "timestep": (),
            "guidance": (),
            "encoder_attention_mask": (5,),
        },
    ),
}


def saved(class_name: str, folder: Path, **changed: Any) -> Any:
    """diffusers' own model with seeded weights, saved to `folder` too; `changed` are entries of its config."""
    import diffusers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = getattr(diffusers, class_name)(**{**TINY[class_name].config, **changed}).eval()
    made.save_pretrained(folder)
    return made


def loaded(folder: Path, **asked: Any) -> Subject:
    return load_folder(open_folder(folder), FamilyRequest(model=folder.name, **asked))


def bare_folder(folder: Path, class_name: str, config: Mapping[str, Any]) -> Path:
    """A folder with a config and no weights."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"_class_name": class_name, **config}))
    return folder
