"""A latent denoiser and its decoder: tiny, with random weights, of matching latents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from dsr_export.bundle.reader import Bundle
from dsr_export.bundle.writer import write_bundle
from dsr_export.config import BatchRange, ExportConfig

DENOISER: dict[str, Any] = {
    "input_size": 4,
    "in_channels": 8,
    "hidden_size": 48,
    "depth": 2,
    "num_heads": 4,
    "num_classes": 5,
    "register_start": 1,
}
DECODER: dict[str, Any] = {
    "hidden_size": 8,
    "latent_size": 4,
    "patch_size": 4,
    "decoder_hidden_size": 48,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 64,
    "encoder": "dinov2",
}


def denoiser_config(out: Path, *components: Path, force: bool = False) -> ExportConfig:
    """How the denoiser is built, around `components`."""
    return ExportConfig(
        model="rae-dit",
        random_weights=0,
        registers=4,
        options=DENOISER,
        targets=("onnxruntime",),
        batch=BatchRange(1, 2, 4),
        trajectory_steps=3,
        out=out,
        components=components,
        force=force,
    )


def decoder_config(out: Path) -> ExportConfig:
    """How the decoder is built; always of two pictures, so that five take three calls and the last is filled up."""
    return ExportConfig(
        model="rae-decoder",
        random_weights=1,
        options=DECODER,
        targets=("onnxruntime",),
        batch=BatchRange(2, 2, 2),
        out=out,
    )


def rewritten(bundle: Path, out: Path, files: dict[str, bytes] | None = None, **manifest: Any) -> Path:
    """The bundle with other files or another manifest, and honest hashes: what another build would have given."""
    opened = Bundle.open(bundle)
    contents: dict[str, Path | bytes] = {name: opened.file(name) for name in opened.manifest.files}
    return write_bundle(out, replace(opened.manifest, files={}, **manifest), {**contents, **(files or {})})
