"""Recipes of the classes that make films, with their sound. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from dsr_export.families.diffusers.general.recipes.common import BOOL_MASK
from dsr_export.families.diffusers.general.recipes.recipe import (
    VIDEO,
    ClassRecipe,
    Fixed,
    Given,
    LeftOut,
    Part,
    Refused,
)

_FRAMES, _SIDE = 3, 16
_FRAMES_FIRST = "frames in_channels height width"


def _film(
    parts: Mapping[str, Part | tuple[Part, ...]] | None = None,
    *,
    text: int | str = 512,
    latent: str = VIDEO,
    frames: int | str = _FRAMES,
) -> ClassRecipe:
    """Of a few frames of 16 x 16 tokens, where the config has no size."""
    return ClassRecipe(latent=latent, text=text, frames=frames, patches=_SIDE, parts=parts or {})


_COGVIDEO: Mapping[str, Part] = {
    "image_rotary_emb": Fixed(
        made="cogvideo_rotary", when="cogvideo_turns", means="cosines and sines of frame, row, column"
    ),
}
_STEPS = Given(shape="frames", draw="thousand", means="the step of each frame, 0 to 1000")

VIDEO_CLASSES: Mapping[str, ClassRecipe | Refused] = {
    "AllegroTransformer3DModel": _film(
        {
            "image_rotary_emb": Fixed(
                made="allegro_rotary", when="allegro_turns", means="rotations and places of frame, row and column"
            )
        },
        frames="sample_frames",
    ),
    "AnyFlowTransformer3DModel": _film({"timestep": _STEPS, "r_timestep": _STEPS}, latent=_FRAMES_FIRST),
    "AnyFlowFARTransformer3DModel": _film(
        {
            "timestep": _STEPS,
            "r_timestep": _STEPS,
            "chunk_partition": Fixed(made="chunks", means="frames of each chunk"),
            "clean_hidden_states": LeftOut(why="only training gives it"),
            "clean_timestep": LeftOut(why="only training gives it"),
        },
        latent=_FRAMES_FIRST,
    ),
    "ChronoEditTransformer3DModel": _film(frames=2),
    "CogVideoXTransformer3DModel": _film(
        {**_COGVIDEO, "ofs": Fixed(made="cogvideo_ofs", when="ofs_embed_dim", means="2, as pipelines give it")},
        latent=_FRAMES_FIRST,
        text="max_text_seq_length",
        frames="cogvideo_frames",
    ),
    "ConsisIDTransformer3DModel": _film(
        {
            **_COGVIDEO,
            "id_cond": Given(shape="LFE_id_dim", when="is_train_face", means="the face in one vector"),
            "id_vit_hidden": Given(
                shape="LFE_num_scale 577 LFE_vit_dim",
                when="is_train_face",
                passed="list",
                means="the face as a picture encoder's tokens, at several depths",
            ),
        },
        latent=_FRAMES_FIRST,
        text="max_text_seq_length",
        frames="cogvideo_frames",
    ),
    "CosmosTransformer3DModel": _film(
        {
            "encoder_hidden_states": Given(
                shape=lambda sizes: (
                    "text crossattn_proj_in_channels"
                    if sizes.config.get("use_crossattn_projection")
                    else "text text_embed_dim"
                ),
                means="the prompt's embedding",
            ),
            "fps": Fixed(made="cosmos_fps", means="frames a second"),
            "condition_mask": Given(
                shape="in_channels-out_channels frames height width",
                draw="flags",
                when="in_channels-out_channels",
                means="1 where a frame is given",
            ),
            "padding_mask": Fixed(made="no_padding", when="concat_padding_mask", means="zeros: nothing is padded"),
        },
        latent="out_channels frames height width",
    ),
    "EasyAnimateTransformer3DModel": _film(
        {
            "encoder_hidden_states": Given(shape="text text_embed_dim", means="the prompt's embedding"),
            "encoder_hidden_states_t5": Given(
                shape="text text_embed_dim_t5", when="text_embed_dim_t5", means="T5's embedding of the prompt"
            ),
            "inpaint_latents": Given(
                shape="in_channels-out_channels frames height width",
                when="in_channels-out_channels",
                means="what is given of the film, and where",
            ),
            "control_latents": LeftOut(why="their channels come with the given film's"),
        },
        text=256,
        latent="out_channels frames height width",
    ),
    "JoyImageEditTransformer3DModel": _film(frames=1),
    "JoyImageEditPlusTransformer3DModel": ClassRecipe(
        latent="cells in_channels patch_size[0] patch_size[1] patch_size[2]",
        one_by_one=True,
        parts={"shape_list": Fixed(made="one_shape", means="frames, rows and columns of the picture")},
    ),
    "Kandinsky5Transformer3DModel": _film(
        {
            "encoder_hidden_states": Given(shape="text in_text_dim", means="the prompt's embedding"),
            "pooled_projections": Given(shape="in_text_dim2", means="the prompt in one vector"),
            "visual_rope_pos": Fixed(made="axis_places", means="frames, rows and columns, counted"),
            "text_rope_pos": Fixed(made="text_places", means="tokens, counted"),
            "scale_factor": LeftOut(why="1, as for pictures of the released size"),
            "sparse_params": LeftOut(why="every token sees every other"),
        },
        latent="frames height width visual_channels",
        text=256,
    ),
    "Kandinsky6Transformer3DModel": _film(
        {
            "encoder_hidden_states": Given(shape="text in_text_dim", means="the prompt's embedding"),
            "pooled_projections": Given(shape="in_text_dim2", means="the prompt in one vector"),
            "audio_hidden_states": Given(
                shape="16 in_audio_dim", when="in_audio_dim", means="the sound's noisy latent"
            ),
            "visual_rope_pos": LeftOut(why="the model computes them"),
            "encoder_attention_mask": LeftOut(why="the prompt fills its tokens"),
            "visual_token_type_ids": LeftOut(why="all frames are of one type"),
        },
        latent="frames height width visual_channels",
        text=256,
    ),
    "Kandinsky6SRTransformer3DModel": Refused(why="its attention chooses blocks of tokens by their values"),
    "LatteTransformer3DModel": _film(
        {
            "encoder_attention_mask": LeftOut(why="the prompt fills its tokens"),
            "enable_temporal_attentions": LeftOut(why="as pipelines do"),
        },
        text=120,
        frames="video_length",
    ),
    "LTXVideoTransformer3DModel": _film(
        {
            "rope_interpolation_scale": Fixed(made="ltx_scale", means="seconds and pixels of a step in the latent"),
            "video_coords": LeftOut(why="the model computes them"),
        },
        text=128,
        latent="tokens in_channels",
    ),
    "MochiTransformer3DModel": _film({"encoder_attention_mask": BOOL_MASK}, text="max_sequence_length"),
    "MotifVideoTransformer3DModel": _film({"image_embeds": LeftOut(why="a picture to begin with")}),
    "SanaVideoTransformer3DModel": _film(text=300),
    "SanaWMTransformer3DModel": Refused(why="it takes a camera's path, as dicts of tables that its pipeline makes"),
    "SanaWMLTX2RefinerTransformer3DModel": Refused(
        why="it takes rotations that its pipeline makes of another model's part"
    ),
    "SkyReelsV2Transformer3DModel": _film(
        {
            "enable_diffusion_forcing": LeftOut(why="all frames are at one step"),
            "fps": Fixed(made="skyreels_fps", when="inject_sample_info", means="1: 24 frames a second"),
        }
    ),
    "TransformerTemporalModel": ClassRecipe(
        latent="frames in_channels height width",
        frames=4,
        parts={
            "hidden_states": Given(
                shape="frames in_channels height width", passed="frames_as_rows", means="the frames' features"
            ),
            "encoder_hidden_states": LeftOut(why="its frames see each other only"),
            "timestep": LeftOut(why="its blocks take no time"),
            "class_labels": LeftOut(why="its blocks take no class"),
        },
        returned="rows_as_frames",
    ),
    "WanTransformer3DModel": _film(),
    "WanAnimateTransformer3DModel": _film(
        {
            "pose_hidden_states": Given(shape="latent_channels frames-1 height width", means="the poses, encoded"),
            "face_pixel_values": Given(
                shape="3 4*frames-7 motion_encoder_size motion_encoder_size", means="the face, in pixels of -1 to 1"
            ),
            "motion_encode_batch_size": Fixed(made="all_faces", means="all frames of the batch at once"),
        },
        frames=6,
    ),
    "WanAnimate2Transformer3DModel": Refused(
        why="it reads keys and values that an earlier call of its own left in a Python object"
    ),
    "WanVACETransformer3DModel": _film(
        {
            "control_hidden_states": Given(shape="vace_in_channels frames height width", means="what to follow"),
            "control_hidden_states_scale": LeftOut(why="1 for each layer"),
        }
    ),
}
