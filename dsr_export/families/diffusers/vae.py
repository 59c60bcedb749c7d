"""The decoder of a pipeline's autoencoder: latents [B, C, h, w] -> pictures [B, 3, H, W] in about [-1, 1]."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dsr_export.checkpoints import StateDict
from dsr_export.checkpoints.absent_weights import no_weights
from dsr_export.declarations.weight_file import WeightFile
from dsr_export.errors import ExportError
from dsr_export.example_rows.drawn import Array
from dsr_export.families.config_bounds import MOST_SIDE
from dsr_export.families.diffusers.files import CONFIG
from dsr_export.families.diffusers.linear_attention import set_apart
from dsr_export.families.diffusers.vae_folder import CLASSES, VaeFolder
from dsr_export.families.diffusers.weights import build_model
from dsr_export.families.digests import file_sha256
from dsr_export.spec import DsrSpec
from dsr_export.subject import Subject
from graphs.artifacts import TensorSpec
from graphs.digests import files_digest

FAMILY = "vae"
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Of an attention's layers in files from before diffusers 0.18."""
_OLD = re.compile(rf"(?<=\.attentions\.)(\d+)\.({'|'.join(_OLD_NAMES)})(?=\.(weight|bias)$)")


@dataclass(frozen=True, kw_only=True)
class Latents:
    """What is decoded: `height` by `width`, `(unit normal) / scaling_factor + shift_factor` or about that."""

    height: int
    width: int
    scaling_factor: float
    shift_factor: float

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """One latent, quieter or louder than it should be by up to a factor of two: denoisers are no better."""
        loudness = rng.uniform(0.5, 2) / self.scaling_factor
        return np.asarray(rng.standard_normal(shape) * loudness + self.shift_factor)


class VaeDecoder(nn.Module):
    """`forward(z [B, C, h, w]) -> image [B, 3, H, W]`: as the autoencoder's `decode`, without tiles."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.post_quant_conv = getattr(vae, "post_quant_conv", None)
        self.decoder = vae.decoder
        self.wide = tuple(f"decoder.{name}" for name in set_apart(self.decoder))

    def forward(self, z: Tensor) -> Tensor:
        made: Tensor = self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))
        return made


def vae_subject(name: str, folder: VaeFolder, latents: Latents, *, random_weights: int | None) -> Subject:
    """The decoder in `folder` for such latents, with its own weights unless a seed is given.

    Raises ExportError for a class that is not in `CLASSES`, sizes it does not take, and weights that do not fit.
    """
    if folder.class_name not in CLASSES:
        known = ", ".join(CLASSES)
        raise ExportError(f"{folder.path} is a {folder.class_name[:80]}, whose decoder is not known", hint=known)
    if not folder.weights and random_weights is None:
        hint = "save the pipeline again, or give --random-weights SEED to try out the architecture"
        raise no_weights(folder.path, f"{folder.path} holds no weights", hint=hint)
    if max(latents.height, latents.width) > MOST_SIDE:
        raise ExportError(f"a {latents.height}x{latents.width} latent is larger than {MOST_SIDE}x{MOST_SIDE}")
    weights = [WeightFile(path) for path in folder.weights] if random_weights is None else random_weights
    vae, origin = build_model(folder.class_name, folder.config, weights, renamed=_today)
    config: Mapping[str, Any] = vae.config  # type: ignore[assignment]
    module = VaeDecoder(vae).eval().requires_grad_(False)
    latent = (int(config["latent_channels"]), latents.height, latents.width)
    with torch.no_grad():
        made = module(torch.zeros(1, *latent))
    found = {"checkpoint_sha256": files_digest(list(folder.weights)), "weights": origin} if origin else {}
    return Subject(
        name=name,
        family=FAMILY,
        module=module,
        inputs=(TensorSpec(name="z", dtype="float32", shape=("batch", *latent)),),
        outputs=(TensorSpec(name="image", dtype="float32", shape=("batch", *made.shape[1:])),),
        dsr=DsrSpec(),
        config={"_class_name": folder.class_name, **_public(config)},
        provenance={
            "config_sha256": file_sha256(folder.path / CONFIG),
            **({"random_seed": random_weights} if random_weights is not None else found),
        },
        fp32_modules=module.wide,
        draws={"z": latents.draw},
        special_rows=True,
    )


def _today(state: StateDict) -> StateDict:
    """Names and shapes as today's class has them: its attention once held convolutions of one pixel."""
    made: StateDict = {}
    for name, tensor in state.items():
        new = _OLD.sub(lambda found: f"{found[1]}.{_OLD_NAMES[found[2]]}", name)
        made[new] = tensor[..., 0, 0] if new != name and tensor.ndim == 4 else tensor
    return made


def _public(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if not name.startswith("_")}
