"""Whole pipelines of diffusers, tiny and random, as `save_pretrained` leaves them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.pipelines.tokenizers_made import SIZE, clip_tokenizer, gemma_tokenizer, t5_tokenizer

SMALL = {"num_attention_heads": 2, "num_layers": 2}
CLIP = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2}
CLIP |= {"vocab_size": SIZE, "projection_dim": 16, "max_position_embeddings": 16}
CLIP |= {"bos_token_id": 3, "eos_token_id": 1, "pad_token_id": 1}
T5 = {"d_model": 32, "d_kv": 8, "num_heads": 2, "num_layers": 2, "d_ff": 24, "vocab_size": SIZE}
GEMMA = {"hidden_size": 8, "head_dim": 8, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": SIZE}
GEMMA |= {"intermediate_size": 16, "num_hidden_layers": 2, "pad_token_id": 0, "bos_token_id": 3, "eos_token_id": 1}
DC: dict[str, Any] = {
    "attention_head_dim": 2,
    "downsample_block_type": "conv",
    "upsample_block_type": "interpolate",
    **{f"{part}_block_types": ["ResBlock", "EfficientViTBlock"] for part in ("encoder", "decoder")},
    **{f"{part}_block_out_channels": [8, 8] for part in ("encoder", "decoder")},
    **{f"{part}_qkv_multiscales": [[], [5]] for part in ("encoder", "decoder")},
    **{f"{part}_layers_per_block": [1, 1] for part in ("encoder", "decoder")},
}


def _modules() -> tuple[Any, Any]:
    missing = "the models extra is not installed"
    return pytest.importorskip("diffusers", reason=missing), pytest.importorskip("transformers", reason=missing)


def _fast(folder: Path) -> Any:
    return _modules()[1].PreTrainedTokenizerFast.from_pretrained(folder)


def _clip(kind: str) -> Any:
    transformers = _modules()[1]
    return getattr(transformers, kind)(transformers.CLIPTextConfig(**CLIP))


def _t5() -> Any:
    transformers = _modules()[1]
    return transformers.T5EncoderModel(transformers.T5Config(**T5, feed_forward_proj="gated-gelu"))


def _kl(**factors: Any) -> Any:
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    sizes = {"block_out_channels": [4, 8], "norm_num_groups": 2, "latent_channels": 4, "sample_size": 16}
    return _modules()[0].AutoencoderKL(**blocks, **sizes, **factors)


def _text(folder: Path, kind: str) -> dict[str, Any]:
    """CLIP's encoder and T5's, with their tokenizers, under FLUX's names."""
    clip, t5 = _fast(clip_tokenizer(folder / "clip")), _fast(t5_tokenizer(folder / "t5"))
    return {"text_encoder": _clip(kind), "tokenizer": clip, "text_encoder_2": _t5(), "tokenizer_2": t5}


def _sd3(folder: Path) -> Any:
    diffusers = _modules()[0]
    sizes = {"attention_head_dim": 8, "sample_size": 8, "in_channels": 4, "out_channels": 4, "pos_embed_max_size": 8}
    widths = {"joint_attention_dim": 32, "caption_projection_dim": 16, "pooled_projection_dim": 32}
    kind = "CLIPTextModelWithProjection"
    text = _text(folder, kind)
    third = {"text_encoder_3": text.pop("text_encoder_2"), "tokenizer_3": text.pop("tokenizer_2")}
    return diffusers.StableDiffusion3Pipeline(
        transformer=diffusers.SD3Transformer2DModel(**SMALL, **sizes, **widths),
        vae=_kl(scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        **text,
        text_encoder_2=_clip(kind),
        tokenizer_2=text["tokenizer"],
        **third,
    )


def _sd3_without_t5(folder: Path) -> Any:
    made = _sd3(folder)
    made.register_modules(text_encoder_3=None, tokenizer_3=None)
    return made


def _flux(folder: Path) -> Any:
    diffusers = _modules()[0]
    sizes = {"attention_head_dim": 16, "in_channels": 16, "num_single_layers": 1, "axes_dims_rope": [4, 4, 8]}
    widths = {"joint_attention_dim": 32, "pooled_projection_dim": 16, "guidance_embeds": True}
    return diffusers.FluxPipeline(
        transformer=diffusers.FluxTransformer2DModel(**SMALL, **sizes, **widths),
        vae=_kl(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        **_text(folder, "CLIPTextModel"),
    )


def _pixart(folder: Path, kind: str = "PixArtAlphaPipeline", **changed: Any) -> Any:
    diffusers = _modules()[0]
    sizes = {"attention_head_dim": 12, "sample_size": 8, "in_channels": 4, "cross_attention_dim": 24}
    sizes |= {"caption_channels": 32, "use_additional_conditions": False, **changed}
    return getattr(diffusers, kind)(
        transformer=diffusers.PixArtTransformer2DModel(**SMALL, **sizes),
        vae=_kl(),
        scheduler=diffusers.DPMSolverMultistepScheduler(),
        text_encoder=_t5(),
        tokenizer=_fast(t5_tokenizer(folder / "t5")),
    )


def _sana(folder: Path) -> Any:
    diffusers, transformers = _modules()
    sizes = {"patch_size": 1, "in_channels": 4, "out_channels": 4, "attention_head_dim": 4, "sample_size": 16}
    cross = {"num_cross_attention_heads": 2, "cross_attention_head_dim": 4, "cross_attention_dim": 8}
    return diffusers.SanaPipeline(
        transformer=diffusers.SanaTransformer2DModel(**SMALL, **sizes, **cross, caption_channels=8),
        vae=diffusers.AutoencoderDC(latent_channels=4, scaling_factor=0.41407, **DC),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=transformers.Gemma2Model(transformers.Gemma2Config(**GEMMA)),
        tokenizer=_fast(gemma_tokenizer(folder / "gemma")),
    )


def _dit(folder: Path) -> Any:
    diffusers = _modules()[0]
    sizes = {"attention_head_dim": 8, "sample_size": 8, "in_channels": 4, "out_channels": 8}
    return diffusers.DiTPipeline(
        transformer=diffusers.DiTTransformer2DModel(**SMALL, **sizes, num_embeds_ada_norm=1000),
        vae=_kl(),
        scheduler=diffusers.DDIMScheduler(),
    )


MADE: Mapping[str, Callable[[Path], Any]] = {
    "sd3": _sd3,
    "sd3-without-t5": _sd3_without_t5,
    "flux": _flux,
    "pixart-alpha": _pixart,
    "pixart-alpha-1024": lambda folder: _pixart(folder, sample_size=128, use_additional_conditions=True),
    "pixart-sigma": lambda folder: _pixart(folder, "PixArtSigmaPipeline"),
    "sana": _sana,
    "dit": _dit,
}
OPTIONS: Mapping[str, Mapping[str, int]] = {
    "sd3": {"text_tokens": 28},
    "sd3-without-t5": {"text_tokens": 28},
    "flux": {"text_tokens": 12, "latent_height": 8, "latent_width": 6},
    "pixart-alpha": {"text_tokens": 12},
    "pixart-alpha-1024": {"text_tokens": 12, "latent_height": 8, "latent_width": 8},
    "pixart-sigma": {"text_tokens": 12},
    "sana": {"text_tokens": 12},
    "dit": {},
}
"""What a build is told of each, since real sizes are far larger."""


@torch.no_grad()
def tiny_pipeline(name: str, folder: Path) -> Any:
    """The pipeline, its weights drawn so that every part shows, and saved in `folder`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = MADE[name](folder / "tokenizers")
        for part in [each for each in pipe.components.values() if isinstance(each, torch.nn.Module)]:
            for weight in part.eval().parameters():  # made by hand they still drop out
                if weight.ndim > 1:
                    weight.normal_(0, weight[0].numel() ** -0.5)
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder / "pipe")
    return pipe
