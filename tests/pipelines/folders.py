"""Pipelines' folders as `save_pretrained` leaves them, of configurations alone: weights are empty files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.pipelines.tokenizers_made import t5_tokenizer

STEM = "diffusion_pytorch_model.safetensors"
TRANSFORMER = {
    "_class_name": "PixArtTransformer2DModel",
    "sample_size": 8,
    "in_channels": 4,
    "caption_channels": 32,
    "num_layers": 1,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
}
VAE = {"_class_name": "AutoencoderKL", "latent_channels": 4, "block_out_channels": [4, 8], "scaling_factor": 0.13}
T5 = {"model_type": "t5", "d_model": 32, "num_layers": 1, "vocab_size": 40}
SCHEDULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
INDEX = {
    "_class_name": "PixArtSigmaPipeline",
    "_diffusers_version": "0.35.0",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "PixArtTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def pixart_folder(folder: Path) -> Path:
    """A pipeline without numbers."""
    parts = {"transformer": TRANSFORMER, "vae": VAE, "text_encoder": T5}
    for role, config in parts.items():
        written(folder / role / "config.json", config)
        (folder / role / ("model.safetensors" if role == "text_encoder" else STEM)).touch()
    written(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    written(folder / "model_index.json", INDEX)
    t5_tokenizer(folder / "tokenizer")
    return folder


def written(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


def changed(path: Path, **values: Any) -> None:
    written(path, {**json.loads(path.read_text(encoding="utf-8")), **values})
