"""Recipes of the picture classes whose pipelines pack the latent into tokens. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from dsr_export.families.diffusers.general.recipes.common import BOOL_MASK, UNIT_TIME
from dsr_export.families.diffusers.general.recipes.recipe import (
    PACKED,
    ClassRecipe,
    Fixed,
    Given,
    LeftOut,
    Part,
    Refused,
)

_PROMPT_IDS = Fixed(made="diagonal_ids", means="the prompt's tokens, along the diagonal")

_FOUR_AXES: Mapping[str, Part] = {
    "img_ids": Fixed(made="four_ids", means="frame, row, column and token of the picture's tokens"),
    "txt_ids": Fixed(made="four_text_ids", means="the prompt's tokens, counted on an axis of their own"),
}

PACKED_CLASSES: Mapping[str, ClassRecipe | Refused] = {
    "BriaTransformer2DModel": ClassRecipe(latent=PACKED, pack=2, text=128),
    "BriaFiboTransformer2DModel": ClassRecipe(
        latent=PACKED,
        text=128,
        parts={
            "text_encoder_layers": Given(
                shape="num_layers+num_single_layers text text_encoder_dim",
                passed="list",
                means="the text encoder's hidden states, one layer for each block",
            )
        },
    ),
    "ChromaTransformer2DModel": ClassRecipe(
        latent=PACKED,
        pack=2,
        text=512,
        parts={
            "timestep": UNIT_TIME,
            "attention_mask": Given(
                shape="text+tokens",
                draw="text_then_all",
                means="1 for the prompt's tokens and the picture's, 0 for padding",
            ),
        },
    ),
    "Flux2Transformer2DModel": ClassRecipe(
        latent=PACKED,
        pack=2,
        text=512,
        parts={
            "timestep": UNIT_TIME,
            **_FOUR_AXES,
            "num_ref_tokens": LeftOut(why="pictures to edit"),
            "ref_fixed_timestep": LeftOut(why="pictures to edit"),
        },
    ),
    "Flux3Transformer2DModel": ClassRecipe(
        latent=PACKED,
        pack=2,
        text=512,
        parts={
            "timestep": UNIT_TIME,
            **_FOUR_AXES,
            "image_cond_hidden_states": LeftOut(why="pictures to edit"),
            "image_cond_ids": LeftOut(why="pictures to edit"),
            "target_timestep": Given(shape="", draw="unit", when="flow_map", means="the time that the map ends at"),
        },
    ),
    "Ideogram4Transformer2DModel": ClassRecipe(
        latent="text+tokens in_channels",
        pack=2,
        parts={
            "timestep": UNIT_TIME,
            "encoder_hidden_states": Given(
                shape="text+tokens llm_features_dim", means="the prompt's embedding, in front of the picture's tokens"
            ),
            "position_ids": Fixed(made="ideogram_places", rows=True, means="prompt, then rows and columns"),
            "segment_ids": Fixed(made="one_segment", rows=True, means="all tokens see each other"),
            "indicator": Fixed(
                made="ideogram_kinds", rows=True, means="3 for the prompt's tokens, 2 for the picture's"
            ),
        },
    ),
    "Krea2Transformer2DModel": ClassRecipe(
        latent=PACKED,
        pack=2,
        text=512,
        parts={
            "timestep": UNIT_TIME,
            "encoder_hidden_states": Given(
                shape="text num_text_layers text_hidden_dim", means="the text encoder's hidden states, by token"
            ),
            "position_ids": Fixed(made="krea_places", means="zeros for the prompt, then rows and columns"),
            "encoder_attention_mask": BOOL_MASK,
        },
    ),
    "LongCatImageTransformer2DModel": ClassRecipe(
        latent=PACKED,
        pack=2,
        text=512,
        parts={
            "timestep": UNIT_TIME,
            "img_ids": Fixed(made="longcat_ids", means="row and column of the picture's tokens, behind the prompt"),
            "txt_ids": _PROMPT_IDS,
            "guidance": LeftOut(why="the model does not read it"),
        },
    ),
    "NucleusMoEImageTransformer2DModel": ClassRecipe(latent=PACKED, pack=2, text=1024, parts={"timestep": UNIT_TIME}),
    "OvisImageTransformer2DModel": ClassRecipe(
        latent=PACKED, pack=2, parts={"timestep": UNIT_TIME, "txt_ids": _PROMPT_IDS}
    ),
    "QwenImageTransformer2DModel": ClassRecipe(
        latent=PACKED,
        pack=2,
        text=512,
        parts={
            "timestep": UNIT_TIME,
            "additional_t_cond": Given(
                shape="",
                dtype="int64",
                draw="below 2",
                when="use_additional_t_cond",
                means="which of two kinds of time",
            ),
        },
    ),
}
