"""A pipeline's autoencoder: its decoder, latents [B, C, h, w] -> pictures [B, 3, H, W] in [-1, 1], and its encoder."""

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
from dsr_export.example_rows.drawn import Array, Draw
from dsr_export.families.config_bounds import MOST_SIDE
from dsr_export.families.diffusers.files import CONFIG
from dsr_export.families.diffusers.vae_folder import CLASSES, VaeFolder
from dsr_export.families.diffusers.weights import build_model
from dsr_export.families.digests import file_sha256
from dsr_export.spec import DsrSpec
from dsr_export.subject import Subject
from graphs.artifacts import TensorSpec
from graphs.digests import files_digest

FAMILY = "vae"
LOG_VARIANCE = "log_variance"
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

    def forward(self, z: Tensor) -> Tensor:
        made: Tensor = self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))
        return made


class VaeEncoder(nn.Module):
    """`forward(image [B, 3, H, W]) -> z [B, C, h, w]`: the most likely latent, as `encode` gives it.

    Of an autoencoder that makes a distribution of latents, then also the logarithm of its variance, [B, C, h, w].
    """

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.encoder = vae.encoder
        self.quant_conv = getattr(vae, "quant_conv", None)
        self.has_variance = hasattr(vae.config, "norm_num_groups")  # of AutoencoderKL, behind the means

    @property
    def makes(self) -> tuple[str, ...]:
        """The names of what it returns."""
        return ("z", LOG_VARIANCE) if self.has_variance else ("z",)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        made: Tensor = self.encoder(image)
        made = made if self.quant_conv is None else self.quant_conv(made)
        return made.chunk(2, dim=1) if self.has_variance else made


def vae_subject(name: str, folder: VaeFolder, latents: Latents, *, random_weights: int | None) -> Subject:
    """The decoder in `folder` for such latents, with its own weights unless a seed is given.

    Raises ExportError for a class that is not in `CLASSES`, sizes it does not take, and weights that do not fit.
    """
    vae, provenance = _vae(folder, latents, random_weights)
    z = (int(vae.config["latent_channels"]), latents.height, latents.width)
    return _subject(name, folder, vae, VaeDecoder(vae), ("z", z, latents.draw), ("image",), provenance)


def vae_encoder_subject(name: str, folder: VaeFolder, latents: Latents, *, random_weights: int | None) -> Subject:
    """The encoder in `folder`, for pictures in [-1, 1] that make latents of this size. Raises as `vae_subject`."""
    vae, provenance = _vae(folder, latents, random_weights)
    blocks = vae.config.get("encoder_block_out_channels") or vae.config["block_out_channels"]
    scale = 2 ** (len(blocks) - 1)
    image = (int(vae.config["in_channels"]), latents.height * scale, latents.width * scale)
    encoder = VaeEncoder(vae)
    return _subject(name, folder, vae, encoder, ("image", image, _picture), encoder.makes, provenance)


def _vae(folder: VaeFolder, latents: Latents, random_weights: int | None) -> tuple[Any, dict[str, Any]]:
    """The autoencoder, and where its weights came from."""
    if folder.class_name not in CLASSES:
        known = ", ".join(CLASSES)
        raise ExportError(f"{folder.path} is a {folder.class_name[:80]}, which is not known here", hint=known)
    if not folder.weights and random_weights is None:
        hint = "save the pipeline again, or give --random-weights SEED to try out the architecture"
        raise no_weights(folder.path, f"{folder.path} holds no weights", hint=hint)
    if max(latents.height, latents.width) > MOST_SIDE:
        raise ExportError(f"a {latents.height}x{latents.width} latent is larger than {MOST_SIDE}x{MOST_SIDE}")
    weights = [WeightFile(path) for path in folder.weights] if random_weights is None else random_weights
    vae, origin = build_model(folder.class_name, folder.config, weights, renamed=_today)
    if random_weights is not None:
        return vae, {"random_seed": random_weights}
    return vae, {"checkpoint_sha256": files_digest(list(folder.weights)), "weights": origin}


def _subject(
    name: str,
    folder: VaeFolder,
    vae: Any,
    module: VaeDecoder | VaeEncoder,
    given: tuple[str, tuple[int, ...], Draw],
    outputs: tuple[str, ...],
    provenance: dict[str, Any],
) -> Subject:
    """`given` is the input's name, its shape without the batch, and how it is drawn; `outputs` are of one shape."""
    module.eval().requires_grad_(False)
    taken, shape, draw = given
    with torch.no_grad():
        made = module(torch.zeros(1, *shape))
    size = (made if isinstance(made, Tensor) else made[0]).shape[1:]
    return Subject(
        name=name,
        family=FAMILY,
        module=module,
        inputs=(TensorSpec(name=taken, dtype="float32", shape=("batch", *shape)),),
        outputs=tuple(TensorSpec(name=each, dtype="float32", shape=("batch", *size)) for each in outputs),
        dsr=DsrSpec(),
        config={"_class_name": folder.class_name, **_public(vae.config)},
        provenance={"config_sha256": file_sha256(folder.path / CONFIG), **provenance},
        draws={taken: draw},
        special_rows=True,
    )


def _picture(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.asarray(rng.uniform(-1, 1, shape))


def _today(state: StateDict) -> StateDict:
    """Names and shapes as today's class has them: its attention once held convolutions of one pixel."""
    made: StateDict = {}
    for name, tensor in state.items():
        new = _OLD.sub(lambda found: f"{found[1]}.{_OLD_NAMES[found[2]]}", name)
        made[new] = tensor[..., 0, 0] if new != name and tensor.ndim == 4 else tensor
    return made


def _public(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if not name.startswith("_")}
