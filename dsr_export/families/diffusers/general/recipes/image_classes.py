"""Recipes of the classes that make pictures. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from dsr_export.families.diffusers.general.recipes.common import BOOL_MASK, TEXT_MASK, TIME, UNIT_TIME, WHOLE_TEXT
from dsr_export.families.diffusers.general.recipes.recipe import ClassRecipe, Fixed, Given, LeftOut, Refused

_PIXELS = Given(shape="2", draw="pixels", means="height and width in pixels")
_CORNER = Given(shape="2", draw="corner", means="top and left corner of the crop, in pixels")
_TRUE_GUIDANCE = Given(shape="", draw="guidance", when="guidance_embeds", means="the strength of guidance, times 1000")

IMAGE_CLASSES: Mapping[str, ClassRecipe | Refused] = {
    "AuraFlowTransformer2DModel": ClassRecipe(parts={"timestep": UNIT_TIME}),
    "BriaFibo2Transformer2DModel": ClassRecipe(
        text="gist_min_text_len",
        parts={
            "timestep": UNIT_TIME,
            "encoder_hidden_states": Given(shape="bundles text cap_feat_dim", means="the prompt's bundles of layers"),
            "encoder_attention_mask": LeftOut(why="the prompt fills its tokens"),
            "context_latents": LeftOut(why="pictures to edit"),
        },
    ),
    "CogView3PlusTransformer2DModel": ClassRecipe(
        text=224, parts={"original_size": _PIXELS, "target_size": _PIXELS, "crop_coords": _CORNER}
    ),
    "CogView4Transformer2DModel": ClassRecipe(
        text=224, parts={"original_size": _PIXELS, "target_size": _PIXELS, "crop_coords": _CORNER}
    ),
    "DreamLiteTransformer2DModel": Refused(why="it is a block within a UNet, whose features it takes"),
    "ErnieImageTransformer2DModel": ClassRecipe(
        parts={
            "text_bth": Given(shape="text text_in_dim", means="the prompt's embedding"),
            "text_lens": Given(shape="", draw="length", dtype="int64", means="how many tokens the prompt has"),
        }
    ),
    "GlmImageTransformer2DModel": ClassRecipe(
        parts={
            "prior_token_id": Given(
                shape="cells",
                dtype="int64",
                draw="below prior_vq_quantizer_codebook_size",
                means="the picture's tokens as the language model foretold them",
            ),
            "prior_token_drop": Given(shape="cells", dtype="bool", draw="flags", means="tokens to leave out"),
            "target_size": _PIXELS,
            "crop_coords": _CORNER,
        }
    ),
    "HiDreamImageTransformer2DModel": ClassRecipe(
        text=128,
        parts={
            "timesteps": TIME,
            "encoder_hidden_states_t5": Given(shape="text caption_channels[0]", means="T5's embedding of the prompt"),
            "encoder_hidden_states_llama3": Given(
                shape="llama_depth text caption_channels[1]",
                passed="layers_first",
                means="Llama's hidden states of the prompt, layer by layer",
            ),
            "pooled_embeds": Given(shape="text_emb_dim", means="the prompt in one vector"),
            "img_ids": LeftOut(why="the model computes them"),
            "img_sizes": LeftOut(why="the model computes them"),
            "hidden_states_masks": LeftOut(why="every token of the latent is there"),
        },
    ),
    "HunyuanDiT2DModel": ClassRecipe(
        parts={
            "encoder_hidden_states": Given(
                shape="text_len cross_attention_dim", means="CLIP's embedding of the prompt"
            ),
            "text_embedding_mask": Given(shape="text_len", draw="mask", means="1 for the prompt's tokens"),
            "encoder_hidden_states_t5": Given(
                shape="text_len_t5 cross_attention_dim_t5", means="T5's embedding of the prompt"
            ),
            "text_embedding_mask_t5": Given(shape="text_len_t5", draw="mask", means="1 for the prompt's tokens"),
            "image_meta_size": Given(
                shape="6",
                draw="pixels",
                when="use_style_cond_and_image_meta_size",
                means="original size, target size and corner of the crop, in pixels",
            ),
            "style": Given(
                shape="",
                dtype="int64",
                draw="below 1",
                when="use_style_cond_and_image_meta_size",
                means="the style, of which there is one",
            ),
            "image_rotary_emb": Fixed(made="hunyuan_rotary", means="cosines and sines of rows and columns"),
        }
    ),
    "HunyuanImageTransformer2DModel": ClassRecipe(
        parts={
            "encoder_attention_mask": WHOLE_TEXT,
            "encoder_hidden_states_2": Given(
                shape="128 text_embed_2_dim", when="text_embed_2_dim", means="the glyphs' embedding"
            ),
            "encoder_attention_mask_2": Fixed(
                made="whole_glyphs", rows=True, when="text_embed_2_dim", means="glyphs that fill their tokens"
            ),
            "guidance": _TRUE_GUIDANCE,
        },
    ),
    "Lumina2Transformer2DModel": ClassRecipe(
        text="half_axis", parts={"timestep": UNIT_TIME, "encoder_attention_mask": WHOLE_TEXT}
    ),
    "LuminaNextDiT2DModel": ClassRecipe(
        parts={
            "timestep": UNIT_TIME,
            "encoder_mask": TEXT_MASK,
            "cross_attention_kwargs": Fixed(made="nothing_named", means="no options of attention"),
            "image_rotary_emb": Fixed(made="lumina_rotary", means="rotations of rows and columns"),
        }
    ),
    "OmniGenTransformer2DModel": ClassRecipe(
        frozen="rope",
        parts={
            "timestep": UNIT_TIME,
            "input_ids": Given(shape="text", dtype="int64", draw="below vocab_size", means="the prompt's tokens"),
            "input_img_latents": Fixed(made="nothing_listed", means="no pictures in the prompt"),
            "input_image_sizes": Fixed(made="nothing_named", means="no pictures in the prompt"),
            "attention_mask": Fixed(
                made="omnigen_mask", rows=True, means="the prompt sees what is before it, the picture all"
            ),
            "position_ids": Fixed(made="omnigen_places", rows=True, means="tokens, counted"),
        },
    ),
    "PRXTransformer2DModel": ClassRecipe(patches=16, parts={"timestep": UNIT_TIME, "attention_mask": BOOL_MASK}),
    "PriorTransformer": ClassRecipe(
        latent="embedding_dim",
        parts={
            "proj_embedding": Given(shape="embedding_proj_dim|embedding_dim", means="what is to be translated"),
            "encoder_hidden_states": Given(
                shape="num_embeddings embedding_dim", when="encoder_hid_proj_type", means="the prompt's embedding"
            ),
            "attention_mask": Given(
                shape="num_embeddings",
                draw="mask",
                dtype="bool",
                when="encoder_hid_proj_type",
                means="the prompt's tokens",
            ),
        },
    ),
    "QwenImage21Transformer2DModel": Refused(why="its pictures stand between the words, where each request has them"),
    "SanaTransformer2DModel": ClassRecipe(text=300),
    "Transformer2DModel": Refused(why="it is a block within a UNet, whose features it takes"),
    "ZImageTransformer2DModel": ClassRecipe(
        latent="in_channels 1 height width",
        text="half_axis",
        parts={
            "x": Given(shape="in_channels 1 height width", passed="rows", means="the noisy latent"),
            "t": UNIT_TIME,
            "cap_feats": Given(shape="text cap_feat_dim", passed="rows", means="the prompt's embedding"),
            "siglip_feats": LeftOut(why="pictures to edit"),
            "image_noise_mask": LeftOut(why="pictures to edit"),
            "patch_size": Fixed(made="first_patch", means="the first patch size of the config"),
            "f_patch_size": Fixed(made="first_frame_patch", means="the first patch size of the config"),
        },
    ),
}
