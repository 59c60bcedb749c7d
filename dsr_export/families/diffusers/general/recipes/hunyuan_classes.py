"""Recipes of HunyuanVideo and of Helios, which go on from frames made before. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from dsr_export.families.diffusers.general.recipes.common import WHOLE_TEXT
from dsr_export.families.diffusers.general.recipes.recipe import VIDEO, ClassRecipe, Fixed, Given, Refused

_FRAMES, _SIDE = 3, 16
_GUIDANCE = Given(shape="", draw="thousands", when="guidance_embeds", means="the strength of guidance, times 1000")
_HISTORY, _CLEAN = "has_multi_term_memory_patch", "has_clean_x_embedder"

HUNYUAN_CLASSES: Mapping[str, ClassRecipe | Refused] = {
    "HeliosTransformer3DModel": ClassRecipe(
        latent=VIDEO,
        text=512,
        frames=9,
        patches=_SIDE,
        parts={
            "indices_hidden_states": Fixed(made="helios_now", rows=True, when=_HISTORY, means="frames, counted"),
            "indices_latents_history_short": Fixed(
                made="helios_short", rows=True, when=_HISTORY, means="frames, counted"
            ),
            "indices_latents_history_mid": Fixed(made="helios_mid", rows=True, when=_HISTORY, means="frames, counted"),
            "indices_latents_history_long": Fixed(
                made="helios_long", rows=True, when=_HISTORY, means="frames, counted"
            ),
            "latents_history_short": Given(
                shape="in_channels 2 height width", when=_HISTORY, means="the first frame and the last"
            ),
            "latents_history_mid": Given(shape="in_channels 2 height width", when=_HISTORY, means="two frames before"),
            "latents_history_long": Given(shape="in_channels 16 height width", when=_HISTORY, means="16 frames before"),
        },
    ),
    "HunyuanVideoTransformer3DModel": ClassRecipe(
        latent=VIDEO, frames=_FRAMES, patches=_SIDE, parts={"guidance": _GUIDANCE}
    ),
    "HunyuanVideo15Transformer3DModel": ClassRecipe(
        latent=VIDEO,
        frames=_FRAMES,
        patches=_SIDE,
        parts={
            "encoder_attention_mask": WHOLE_TEXT,
            "encoder_hidden_states_2": Given(shape="256 text_embed_2_dim", means="the glyphs' embedding"),
            "encoder_attention_mask_2": Fixed(made="whole_256", rows=True, means="glyphs that fill their tokens"),
            "image_embeds": (
                Given(shape="729 image_embed_dim", when="from_picture", means="the first frame as an encoder's tokens"),
                Fixed(made="no_picture", rows=True, means="zeros: there is no first frame"),
            ),
        },
    ),
    "HunyuanVideoFramepackTransformer3DModel": ClassRecipe(
        latent=VIDEO,
        frames=9,
        patches=_SIDE,
        parts={
            "guidance": _GUIDANCE,
            "encoder_attention_mask": WHOLE_TEXT,
            "image_embeds": Given(shape="729 image_proj_dim", when="has_image_proj", means="the picture's tokens"),
            "indices_latents": Fixed(made="framepack_now", means="frames, counted"),
            "latents_clean": Given(
                shape="in_channels 2 height width", when=_CLEAN, means="the first frame and the last"
            ),
            "indices_latents_clean": Fixed(made="framepack_clean", when=_CLEAN, means="frames, counted"),
            "latents_history_2x": Given(shape="in_channels 2 height width", when=_CLEAN, means="two frames before"),
            "indices_latents_history_2x": Fixed(made="framepack_2x", when=_CLEAN, means="frames, counted"),
            "latents_history_4x": Given(shape="in_channels 16 height width", when=_CLEAN, means="16 frames before"),
            "indices_latents_history_4x": Fixed(made="framepack_4x", when=_CLEAN, means="frames, counted"),
        },
    ),
}
