"""Small models of every family with lively weights, and what hooks on them make."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.families.encoders.hooked import layer_tokens

transformers = pytest.importorskip("transformers", reason="the models extra is not installed")

HIDDEN, MLP, DEPTH = 32, 48, 3
SIZES: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "intermediate_size": MLP,
    "image_size": 16,
    "patch_size": 4,
}
NEURONS = {0: (3, 17, 3), 2: (5,)}


@dataclass(frozen=True)
class Case:
    """A model, the family that reads its folder, and where its parts are."""

    family: str
    config: str
    model: str
    sizes: Mapping[str, Any] = field(default_factory=dict)
    prefix: int = 1
    rotary: str | None = None
    patches: int = 16


CASES = {
    "siglip": Case("siglip", "SiglipVisionConfig", "SiglipVisionModel", prefix=0),
    "clip": Case("clip", "CLIPVisionConfig", "CLIPVisionModel", {"hidden_act": "quick_gelu"}),
    "dinov2": Case("dinov2", "Dinov2Config", "Dinov2Model", {"mlp_ratio": 2}),
    "dinov2, registers": Case(
        "dinov2-with-registers", "Dinov2WithRegistersConfig", "Dinov2WithRegistersModel", {"mlp_ratio": 2}, prefix=5
    ),
    "dinov2, gated": Case("dinov2", "Dinov2Config", "Dinov2Model", {"mlp_ratio": 2, "use_swiglu_ffn": True}),
    "dinov3": Case(
        "dinov3",
        "DINOv3ViTConfig",
        "DINOv3ViTModel",
        {"num_register_tokens": 4},
        prefix=5,
        rotary="rope_embeddings",
    ),
    "dinov3, gated": Case(
        "dinov3",
        "DINOv3ViTConfig",
        "DINOv3ViTModel",
        {"use_gated_mlp": True, "hidden_act": "silu", "num_register_tokens": 0},
        rotary="rope_embeddings",
    ),
    "mae": Case("mae", "ViTMAEConfig", "ViTMAEModel"),
    "naflex": Case("siglip2", "Siglip2VisionConfig", "Siglip2VisionModel", {"num_patches": 9}, 0, patches=9),
    "vit": Case("vit", "ViTConfig", "ViTModel"),
    "deit": Case("vit", "DeiTConfig", "DeiTModel", prefix=2),
    "beit": Case("vit", "BeitConfig", "BeitModel", {"use_absolute_position_embeddings": True}),
}


def layers_of(model: nn.Module) -> nn.ModuleList:
    """Releases of transformers keep them in different places."""
    (found,) = [each for each in model.modules() if isinstance(each, nn.ModuleList) and len(each) == DEPTH]
    return found


@torch.no_grad()
def saved(case: Case, folder: Path) -> Any:
    """A model with lively weights, and its folder."""
    config_class = getattr(transformers, case.config)
    sizes = {name: value for name, value in SIZES.items() if hasattr(config_class(), name)}
    model = getattr(transformers, case.model)(config_class(**{**sizes, **case.sizes})).eval()
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        spread = (weight.numel() // weight.shape[0]) ** -0.5 if weight.ndim > 1 and weight.numel() else 0.3
        weight.normal_(float(weight.ndim == 1), spread, generator=generator)
    model.save_pretrained(folder)
    return model


def inputs_of(case: Case, image: Tensor, rows: int) -> dict[str, Any]:
    inputs: dict[str, Any] = {"pixel_values": image}
    if case.family == "mae":
        inputs["noise"] = torch.arange(case.patches).expand(len(image), -1).float()
    if case.family == "siglip2":
        inputs["pixel_attention_mask"] = torch.ones(len(image), case.patches + rows)
        inputs["spatial_shapes"] = torch.tensor([[3, 3]]).expand(len(image), -1)
    return inputs


def image_of(case: Case) -> Tensor:
    shape = (3, 9, 48) if case.family == "siglip2" else (3, 3, 16, 16)
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def expected_tokens(case: Case, model: Any, image: Tensor, **options: Any) -> list[Tensor]:
    """Patch tokens of every layer through a norm without affine."""
    model.config.mask_ratio = 0.0
    rows = options.get("registers", 1) if options.get("neurons") else len(options.get("appended", ()))
    tower = model if hasattr(model, "embeddings") else model.vision_model
    found = layer_tokens(
        model,
        inputs_of(case, image, rows),
        layers=layers_of(model),
        embeddings=tower.embeddings,
        rotary=None if case.rotary is None else model.get_submodule(case.rotary),
        **options,
    )
    eps = float(model.config.layer_norm_eps)
    return [F.layer_norm(tokens[:, case.prefix :], (HIDDEN,), eps=eps) for tokens in found]


def dsr_file(folder: Path, **values: Any) -> Path:
    lines = [f"{key} = {json.dumps(value)}" for key, value in {"kind": "test-time", **values}.items()]
    (folder / "dsr.toml").write_text("\n".join(["[encoder]", 'neurons = "n.json"', *lines]))
    (folder / "n.json").write_text(json.dumps({str(layer): list(table) for layer, table in NEURONS.items()}))
    return folder / "dsr.toml"
