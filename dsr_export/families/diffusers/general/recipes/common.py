"""The table that all classes share: what a parameter of `forward` is, by its name. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from dsr_export.families.diffusers.general.recipes.recipe import Fixed, Given, LeftOut, Part

TEXT_WIDTH = (
    "caption_channels|joint_attention_dim|text_embed_dim|text_dim|cap_feat_dim|context_in_dim"
    "|cross_attention_input_dim|cross_attention_dim"
)
_EXTRA = LeftOut(why="an option of the code around the model")
_ADDED = LeftOut(why="what a second network adds")
_CACHE = LeftOut(why="a cache of an earlier call")

TIME = Given(shape="", draw="thousand", means="the step of the schedule, 0 to 1000")
UNIT_TIME = Given(shape="", draw="unit", means="the time, 0 to 1")
TEXT_MASK = Given(shape="text", draw="mask", means="1 for the prompt's tokens, 0 for padding")
BOOL_MASK = Given(shape="text", draw="mask", dtype="bool", means="true for the prompt's tokens, false for padding")
WHOLE_TEXT = Fixed(made="whole_text", rows=True, means="a prompt that fills its tokens: its length shapes the graph")
CLIP_TOKENS = (
    Given(
        shape="pos_embed_seq_len image_dim",
        when="two_pictures",
        passed="two_as_rows",
        means="the first frame and the last as a picture encoder's tokens, one behind the other",
    ),
    Given(shape="257 image_dim", when="image_dim", means="the first frame as a picture encoder's tokens"),
)

BY_NAME: Mapping[str, Part | tuple[Part, ...]] = {
    "timestep": TIME,
    "encoder_hidden_states": Given(shape=f"text {TEXT_WIDTH}", means="the prompt's embedding"),
    "encoder_attention_mask": TEXT_MASK,
    "encoder_hidden_states_mask": BOOL_MASK,
    "pooled_projections": Given(
        shape="pooled_projection_dim", when="pooled_projection_dim", means="the prompt in one vector"
    ),
    "guidance": Given(shape="", draw="guidance", when="guidance_embeds", means="the strength of guidance"),
    "encoder_hidden_states_image": CLIP_TOKENS,
    "timestep_r": Given(shape="", draw="thousand", when="use_meanflow", means="the step that the mean flow ends at"),
    "img_ids": Fixed(made="grid_ids", means="row and column of each token of the picture"),
    "txt_ids": Fixed(made="zero_ids", means="zeros: the prompt has no place in the picture"),
    "img_shapes": Fixed(made="grid_shapes", means="frames, rows and columns of the picture"),
    "num_frames": Fixed(made="frames", means="frames of the latent"),
    "height": Fixed(made="height", means="height of the latent"),
    "width": Fixed(made="width", means="width of the latent"),
    "return_dict": _EXTRA,
    "attention_kwargs": _EXTRA,
    "joint_attention_kwargs": _EXTRA,
    "cross_attention_kwargs": _EXTRA,
    "skip_layers": _EXTRA,
    "timestep_cond": _EXTRA,
    "image_rotary_emb": LeftOut(why="the model computes it"),
    "attention_mask": LeftOut(why="every token of the latent is there"),
    "controlnet_block_samples": _ADDED,
    "controlnet_single_block_samples": _ADDED,
    "controlnet_blocks_repeat": _ADDED,
    "block_controlnet_hidden_states": _ADDED,
    "kv_cache": _CACHE,
    "kv_caches": _CACHE,
    "kv_cache_mode": _CACHE,
    "kv_cache_flag": _CACHE,
}
