"""Autoencoders of bundles put together by hand: how they are called, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dsr_export.bundle.reader import Bundle
from dsr_export.diffusers import attach
from dsr_export.errors import ExportError
from tests.diffusers.handmade_parts import (
    OLD_ENCODER,
    VAE,
    Z,
    handmade_bundle,
    handmade_pipe,
)


def test_latents_become_pictures_as_the_autoencoder_says_it(bundle: Bundle) -> None:
    pipe = handmade_pipe()
    kinds = [type(each) for each in (pipe.vae.decode(Z), pipe.vae.encode(torch.zeros(1, 3, 8, 8)))]
    wanted = Z[:, [0, 1, 0]].repeat_interleave(2, 2).repeat_interleave(2, 3)
    with attach(pipe, bundle, components=VAE):
        made = pipe.vae.decode(Z)
        torch.testing.assert_close(made.sample, wanted)
        for tuples in (pipe.vae.decode(Z, False), pipe.vae.decode(z=Z, return_dict=False, generator=None)):
            assert isinstance(tuples, tuple)
            torch.testing.assert_close(tuples[0], wanted)
        back = pipe.vae.encode(wanted)
        assert [type(made), type(back)] == kinds
        torch.testing.assert_close(back.latent_dist.mode(), Z)
        torch.testing.assert_close(pipe.vae.encode(wanted, return_dict=False)[0].mean, Z)
        torch.testing.assert_close(pipe.vae(wanted).sample, wanted)


def test_latents_are_drawn_from_what_a_picture_is_encoded_to(bundle: Bundle) -> None:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    pipe, image = handmade_pipe(), torch.rand(2, 3, 8, 8)
    with attach(pipe, bundle, components=VAE):
        found = pipe.vae.encode(image).latent_dist
        own = DiagonalGaussianDistribution(torch.cat([found.mode(), torch.full_like(found.mode(), -3)], dim=1))
        made, wanted = (each.sample(torch.Generator().manual_seed(0)) for each in (found, own))
        torch.testing.assert_close(made, wanted)
        torch.testing.assert_close(found.kl(), own.kl())
        assert not torch.equal(made, found.mode())
        pipe.vae.enable_slicing()
        torch.testing.assert_close(pipe.vae.encode(image).latent_dist.logvar, found.logvar)


def test_a_bundle_without_the_variance_says_so_where_it_is_read(tmp_path: Path) -> None:
    pipe, image = handmade_pipe(), torch.zeros(1, 3, 8, 8)
    bundle = handmade_bundle(tmp_path, graphs={"vae_encoder": OLD_ENCODER})
    with attach(pipe, bundle, components=VAE):
        found = pipe.vae.encode(image).latent_dist
        assert found.mode().shape == (1, 2, 4, 4)
        for call in (found.sample, found.kl, lambda: pipe.vae(image, sample_posterior=True)):
            with pytest.raises(ExportError, match="gives no variance of latents") as caught:
                call()
            assert "build it again" in str(caught.value.hint)


def test_slices_go_row_by_row_and_tiles_are_refused(bundle: Bundle) -> None:
    pipe = handmade_pipe()
    many = torch.cat([Z, Z])
    with attach(pipe, bundle, components=VAE):
        with pytest.raises(ExportError, match="calls its vae with a batch of 4, and the bundle takes 1 to 3") as caught:
            pipe.vae.decode(many)
        assert "--component-batch vae=1,2,4" in str(caught.value.hint)
        pipe.vae.enable_slicing()
        assert pipe.vae.decode(many).sample.shape == (4, 3, 8, 8)
        pipe.vae.enable_tiling()
        pipe.vae.decode(many)  # no larger than one tile
        pipe.vae.tile_latent_min_size = 3
        with pytest.raises(ExportError, match="tiles are asked for") as caught:
            pipe.vae.decode(many)
        assert "disable_tiling" in str(caught.value.hint)
        pipe.vae.disable_tiling()
        pipe.vae.decode(many)


@pytest.mark.parametrize("z", [Z[0], Z[..., :3], Z[:, :1], Z.long(), None])
def test_other_latents_are_refused(z: Any, bundle: Bundle) -> None:
    pipe = handmade_pipe()
    with attach(pipe, bundle, components=VAE), pytest.raises(ExportError, match="gives its vae"):
        pipe.vae.decode(z)


def test_one_way_alone_refuses_the_other(tmp_path: Path) -> None:
    pipe = handmade_pipe()
    with attach(pipe, handmade_bundle(tmp_path, "vae_encoder"), components=VAE):
        with pytest.raises(ExportError, match="does not hold an encoder of pictures") as caught:
            pipe.vae.encode(torch.zeros(1, 3, 8, 8))
        assert "--components all,vae_encoder" in str(caught.value.hint)
    again = tmp_path / "again"
    again.mkdir()
    with attach(pipe, handmade_bundle(again, "vae"), components=VAE):
        assert pipe.vae.encode(torch.zeros(1, 3, 8, 8)).latent_dist.mode().shape == (1, 2, 4, 4)
        with pytest.raises(ExportError, match="does not hold a decoder of latents"):
            pipe.vae.decode(Z)
