"""What of a pipeline becomes a model of its own beside the transformer, and at which sizes. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dsr_export.errors import ExportError
from dsr_export.families.text_encoders.reads import Reads
from dsr_export.pipelines.folder import TRANSFORMER, VAE, PipelineFolder
from dsr_export.prompts.settings import read_folder_settings

CLIP_TOKENS = 77
MOST_TOKENS = 2**16


@dataclass(frozen=True, kw_only=True)
class TextPart:
    """A text encoder, and the subfolder of its tokenizer."""

    role: str
    tokenizer: str
    reads: Reads


@dataclass(frozen=True, kw_only=True)
class VaePart:
    """The decoder of latents [channels, height, width], or their encoder; `scale` pixels are a cell's side."""

    channels: int
    height: int
    width: int
    scale: int
    scaling_factor: float
    shift_factor: float
    encodes: bool = False


@dataclass(frozen=True)
class PipelineSizes:
    """What is static in the graphs: from the options of the build, else from the pipeline's configurations."""

    folder: PipelineFolder
    options: Mapping[str, Any]

    @property
    def transformer(self) -> Mapping[str, Any]:
        return self.folder.config(TRANSFORMER)

    def size(self, option: str, default: int) -> int:
        """An option's value, or the default. ExportError for anything but a whole number from 1."""
        value = self.options.get(option, default)
        if type(value) is not int or not 1 <= value <= MOST_TOKENS:
            raise ExportError(f"option {option}={value!r} is no whole number from 1 to {MOST_TOKENS}")
        return value

    def latent(self, default: int) -> tuple[int, int]:
        """Height and width of the latent."""
        side = self.transformer.get("sample_size")
        side = side if type(side) is int else default
        return self.size("latent_height", side), self.size("latent_width", side)

    def longest(self, tokenizer: str) -> int:
        """How many tokens CLIP's tokenizer makes, at most: what its files say, as pipelines pad to that."""
        said = read_folder_settings(self.folder.part(tokenizer)).longest
        return CLIP_TOKENS if said is None or said > MOST_TOKENS else said

    def vae(self, latent: tuple[int, int], channels: int, *, shifted: bool) -> VaePart:
        """The autoencoder's decoder. ExportError where it decodes latents of other channels, or lacks a factor."""
        config, where = self.folder.config(VAE), self.folder.part(VAE)
        found = config.get("latent_channels", channels)
        if found != channels:
            raise ExportError(
                f"{where} decodes latents of {found} channels, and the transformer makes {channels}",
                hint="is it another pipeline's?",
            )
        blocks = config.get("encoder_block_out_channels") or config.get("block_out_channels") or [0]
        is_kl = self.folder.classes[VAE] == "AutoencoderKL"
        return VaePart(
            channels=channels,
            height=latent[0],
            width=latent[1],
            scale=2 ** (len(blocks) - 1),
            scaling_factor=_factor(config, "scaling_factor", 0.18215 if is_kl else 1.0, where),
            shift_factor=_factor(config, "shift_factor", None, where) if shifted else 0.0,
        )


def _factor(config: Mapping[str, Any], name: str, default: float | None, where: Any) -> float:
    value = config.get(name, default)
    if type(value) not in (int, float) or (name == "scaling_factor" and not value):
        raise ExportError(f"{where}: {name} is {value!r}, and the pipeline's latents need a number")
    return float(value)
