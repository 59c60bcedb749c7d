"""A bundle in the place of a pipeline's autoencoder.

Shapes: latents [n, C, h, w], pictures [n, 3, H, W].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dsr_export.diffusers.absent import Absent
from dsr_export.diffusers.matching import eager
from dsr_export.diffusers.part import AttachedPart
from dsr_export.diffusers.running import Running
from dsr_export.errors import ExportError

KL = "AutoencoderKL"
VAE, VAE_ENCODER = "vae", "vae_encoder"
_LEAVE_OUT = "leave the vae out: attach(..., components='transformer')"


class AttachedAutoencoder(AttachedPart):
    """Called as the autoencoder that it stands for: `decode`, and `encode` where the bundle holds the way back."""

    @torch.no_grad()
    def decode(self, z: Tensor, return_dict: bool = True, generator: Any = None) -> Any:
        """Pictures of latents, as the original's `decode`. Raises what `attach` says, and ExportError for tiles."""
        running = self._of(VAE, "a decoder of latents", "--components all")
        least = ("tile_latent_min_height", "tile_latent_min_width", "tile_latent_min_size")
        made = self._through(running, z, least)[0]
        if not return_dict:
            return (made,)
        from diffusers.models.autoencoders.vae import DecoderOutput

        return DecoderOutput(sample=made)

    @torch.no_grad()
    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """Latents of pictures, as the original's `encode`: of `AutoencoderKL` their distribution.

        Raises what `attach` says, ExportError for tiles, and without a `vae_encoder` in the bundle.
        """
        running = self._of(VAE_ENCODER, "an encoder of pictures", "--components all,vae_encoder")
        least = ("tile_sample_min_height", "tile_sample_min_width", "tile_sample_min_size")
        made = self._through(running, x, least)
        found = _distribution(made) if type(eager(self.original)).__name__ == KL else made[0]
        if not return_dict:
            return (found,)
        if type(eager(self.original)).__name__ == KL:
            from diffusers.models.modeling_outputs import AutoencoderKLOutput

            return AutoencoderKLOutput(latent_dist=found)
        from diffusers.models.autoencoders.vae import EncoderOutput

        return EncoderOutput(latent=found)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """There and back, as the original goes: through `encode` and `decode` of this one."""
        return type(eager(self.original)).forward(self, *args, **kwargs)

    def _of(self, role: str, what: str, components: str) -> Running:
        found = [each for each in self._running if each.role == role]
        if not found:
            hint = f"build with {components}, or {_LEAVE_OUT}"
            raise ExportError(f"{self.bundle.path} does not hold {what}", hint=hint)
        return found[0]

    def _through(self, running: Running, given: Tensor, least: tuple[str, ...]) -> tuple[Tensor, ...]:
        """What the model makes, in order, where the input lies, in its type; row by row where slices are asked for."""
        running.check_open()
        _check_shape(running, given)
        if self.use_tiling and _tiled(self, given, least):
            raise ExportError(
                f"tiles are asked for, and the bundle's {running.role} takes the whole at once",
                hint="call pipe.vae.disable_tiling() first",
            )
        if self.use_slicing and len(given) > 1:
            rows = [_called(running, given[i : i + 1]) for i in range(len(given))]
            return tuple(torch.cat(each) for each in zip(*rows, strict=True))
        return _called(running, given)


def _called(running: Running, given: Tensor) -> tuple[Tensor, ...]:
    running.check_batch(len(given))
    (spec,) = running.manifest.input_specs()
    inputs = {spec.name: given.to(running.device, getattr(torch, spec.dtype)).contiguous()}
    return tuple(made.to(given.device, given.dtype) for made in running(inputs).values())


def _check_shape(running: Running, given: Any) -> None:
    (spec,) = running.manifest.input_specs()
    if not isinstance(given, Tensor) or not given.dtype.is_floating_point:
        raise ExportError(f"the pipeline gives its {running.role} no tensor of numbers")
    wanted = list(spec.with_batch(len(given) if given.ndim else 1))
    if list(given.shape) != wanted:
        raise ExportError(
            f"the pipeline gives its {running.role} the shape {list(given.shape)}, and the bundle takes {wanted}",
            hint="height and width are those that it was built for",
        )


def _tiled(vae: nn.Module, given: Tensor, least: tuple[str, ...]) -> bool:
    """Whether the original would take it in tiles: it is larger than one, upwards or sideways."""
    height, width, side = (getattr(vae, name, None) for name in least)
    bounds = (side if height is None else height, side if width is None else width)
    return any(bound is not None and size > bound for size, bound in zip(given.shape[2:], bounds, strict=True))


def _distribution(made: tuple[Tensor, ...]) -> Any:
    """The distribution of latents that has the mean and the logarithm of the variance `made`."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    if len(made) == 1:
        return _most_likely(made[0])
    return DiagonalGaussianDistribution(torch.cat(made, dim=1))


def _most_likely(mean: Tensor) -> Any:
    """The same around `mean`, of a bundle that was built before they held the variance."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    made = DiagonalGaussianDistribution.__new__(DiagonalGaussianDistribution)
    made.mean, made.deterministic = mean, False
    hint = "build it again, or take the most likely latent, latent_dist.mode()"
    for name in ("parameters", "logvar", "std", "var"):
        setattr(made, name, Absent.of("variance of latents", hint))
    return made
