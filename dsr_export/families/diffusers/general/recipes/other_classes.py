"""Recipes of the classes that make sound, sound with films, and anything else. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from dsr_export.families.diffusers.general.recipes.common import BOOL_MASK, TEXT_MASK, UNIT_TIME
from dsr_export.families.diffusers.general.recipes.recipe import ClassRecipe, Fixed, Given, LeftOut, Refused

_SOUND = "in_channels frames"
_OMNI_NAMES = (*("tokens", "token_shapes", "sequence_indexes", "mse_loss_indexes", "timesteps", "noisy_frame_indexes"),)
_OMNI_SOUND = LeftOut(why="a film without sound")
_OMNI_ACTION = LeftOut(why="a film without actions")
_LTX2_SIGMA = Given(
    shape="", draw="thousand", when="cross_attn_mod|audio_cross_attn_mod", means="the noise level, times 1000"
)

OTHER_CLASSES: Mapping[str, ClassRecipe | Refused] = {
    "AceStepTransformer1DModel": ClassRecipe(
        latent="frames audio_acoustic_hidden_dim",
        frames=256,
        text=64,
        parts={
            "timestep": UNIT_TIME,
            "timestep_r": UNIT_TIME,
            "encoder_hidden_states": Given(shape="text encoder_hidden_size|hidden_size", means="prompt and lyrics"),
            "context_latents": Given(
                shape="frames in_channels-audio_acoustic_hidden_dim", means="what is given of the sound, and where"
            ),
        },
    ),
    "Cosmos3OmniTransformer": ClassRecipe(
        latent="",
        frames=3,
        patches=16,
        one_by_one=True,
        parts={
            "input_ids": Given(
                shape="text", dtype="int64", draw="below vocab_size", passed="alone", means="the prompt's tokens"
            ),
            "text_indexes": Fixed(made="text_places", means="the prompt comes first"),
            "position_ids": Fixed(made="omni_places", means="tokens, frames, rows and columns, counted"),
            "und_len": Fixed(made="text_count", means="tokens of the prompt"),
            "sequence_length": Fixed(made="all_count", means="tokens of prompt and film"),
            "vision_tokens": Given(
                shape="latent_channel frames height width", passed="one_batch", means="the noisy latent"
            ),
            "vision_token_shapes": Fixed(made="omni_shapes", means="frames, rows and columns of the film"),
            "vision_sequence_indexes": Fixed(made="omni_film", means="which tokens are the film's"),
            "vision_mse_loss_indexes": Fixed(made="omni_film", means="which tokens are asked for"),
            "vision_timesteps": Given(
                shape="", draw="thousand", passed="each_cell", means="the step of the schedule, 0 to 1000"
            ),
            "vision_noisy_frame_indexes": Fixed(made="omni_noisy", means="all frames are noisy"),
            **{f"sound_{name}": _OMNI_SOUND for name in _OMNI_NAMES},
            **{f"action_{name}": _OMNI_ACTION for name in (*_OMNI_NAMES, "domain_ids")},
        },
    ),
    "LongCatAudioDiTTransformer": ClassRecipe(
        latent="frames latent_dim",
        frames=256,
        text=64,
        parts={
            "timestep": UNIT_TIME,
            "encoder_hidden_states": Given(shape="text dit_text_dim", means="the prompt's embedding"),
            "encoder_attention_mask": BOOL_MASK,
            "attention_mask": Given(shape="frames", draw="mask", dtype="bool", means="true for the sound's frames"),
            "latent_cond": Given(
                shape="frames latent_dim", when="use_latent_condition", means="the voice to begin with"
            ),
        },
    ),
    "LTX2VideoTransformer3DModel": ClassRecipe(
        latent="tokens in_channels",
        frames=3,
        text=256,
        patches=16,
        parts={
            "audio_hidden_states": Given(shape="16 audio_in_channels", means="the noisy latent of the sound"),
            "encoder_hidden_states": Given(shape="text ltx2_text_width", means="the prompt's embedding"),
            "audio_encoder_hidden_states": Given(
                shape="text ltx2_audio_text_width", means="the prompt's embedding for the sound"
            ),
            "audio_timestep": LeftOut(why="the film's"),
            "sigma": _LTX2_SIGMA,
            "audio_sigma": LeftOut(why="the film's"),
            "audio_encoder_attention_mask": TEXT_MASK,
            "fps": LeftOut(why="24 frames a second"),
            "audio_num_frames": Fixed(made="sixteen", means="frames of the sound"),
            "video_coords": LeftOut(why="the model computes them"),
            "audio_coords": LeftOut(why="the model computes them"),
            "isolate_modalities": LeftOut(why="film and sound hear each other"),
            "spatio_temporal_guidance_blocks": LeftOut(why="a guidance of its own"),
            "perturbation_mask": LeftOut(why="a guidance of its own"),
            "use_cross_timestep": LeftOut(why="as pipelines do"),
            "video_self_attention_mask": LeftOut(why="every token sees every other"),
            "video_keyframes_mask": LeftOut(why="no frames are given"),
        },
    ),
    "MiniMaxH3Transformer3DModel": ClassRecipe(
        latent="cells patch_channels",
        frames=3,
        patches=16,
        one_by_one=True,
        parts={
            "audio_hidden_states": Given(shape="16 audio_in_channels", means="the noisy latent of the sound"),
            "timestep": Given(shape="", draw="unit", means="the time, 0 to 1"),
            "timestep_indices": Fixed(made="h3_times", means="all tokens are at the one time"),
            "token_tags": Fixed(made="h3_tags", means="prompt, sound or film"),
            "position_ids": Fixed(made="h3_places", means="frames, rows and columns, counted"),
            "video_indices": Fixed(made="h3_film", means="which tokens are the film's"),
            "audio_indices": Fixed(made="h3_sound", means="which tokens are the sound's"),
            "text_indices": Fixed(made="h3_prompt", means="which tokens are the prompt's"),
        },
    ),
    "MiniMaxMusic3Transformer1DModel": ClassRecipe(
        latent=_SOUND,
        frames=256,
        parts={
            "timestep": UNIT_TIME,
            "encoder_hidden_states": Given(shape="frames condition_dim", means="the condition of each frame"),
        },
    ),
    "MiniMaxMusic3RVQDepthDecoder": ClassRecipe(
        parts={"inputs_embeds": Given(shape="num_codebooks hidden_size", means="the codes' embeddings")}
    ),
    "RFD4ProteinaTransformer": Refused(why="it takes a molecule's features as a dict"),
    "StableAudioDiTModel": ClassRecipe(
        latent=_SOUND,
        frames="sample_size",
        text=130,
        parts={
            "timestep": UNIT_TIME,
            "global_hidden_states": Given(shape="1 global_states_input_dim", means="start and length of the sound"),
            "rotary_embedding": Fixed(made="stable_audio_rotary", means="cosines and sines of the frames"),
            "encoder_attention_mask": LeftOut(why="padding is zeros"),
        },
    ),
    "StableAudio3DiTModel": ClassRecipe(
        latent="io_channels frames",
        frames=256,
        text=130,
        parts={
            "timestep": UNIT_TIME,
            "encoder_hidden_states": Given(shape="text cond_token_dim", means="the prompt's embedding"),
            "global_hidden_states": Given(shape="global_cond_dim", means="the length of the sound"),
            "local_add_cond": LeftOut(why="a sound to go on from"),
        },
    ),
    "T5FilmDecoder": Refused(why="it takes pairs of encodings and their masks"),
}
