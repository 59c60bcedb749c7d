"""Tiny configs of many classes, for what must hold in every class: sizes of no sequence are those of another axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEADS = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2}
FLUX = {**HEADS, "num_single_layers": 2, "in_channels": 8, "joint_attention_dim": 20, "axes_dims_rope": [4, 6, 6]}
WAN = {"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2, "in_channels": 4, "out_channels": 4}
WAN |= {"text_dim": 20, "freq_dim": 16, "ffn_dim": 40, "rope_max_seq_len": 32}
VIDEO = {"latent_height": 6, "latent_width": 10, "latent_frames": 2, "text_tokens": 7}
IMAGE = {"latent_height": 6, "latent_width": 10, "text_tokens": 7}
HUNYUAN = {**HEADS, "in_channels": 4, "out_channels": 4, "num_single_layers": 2, "num_refiner_layers": 1}
HUNYUAN |= {"text_embed_dim": 20, "rope_axes_dim": [4, 6, 6]}
COGVIEW = {**HEADS, "in_channels": 4, "out_channels": 4, "text_embed_dim": 20, "time_embed_dim": 12, "condition_dim": 8}
COGVIDEO = {**HEADS, "in_channels": 4, "out_channels": 4, "text_embed_dim": 20, "time_embed_dim": 12}
COGVIDEO |= {"sample_width": 10, "sample_height": 6, "sample_frames": 5, "max_text_seq_length": 7}
COGVIDEO |= {"use_rotary_positional_embeddings": True}

SURVEY: Mapping[str, tuple[Mapping[str, Any], Mapping[str, int]]] = {
    "AuraFlowTransformer2DModel": (
        {
            "sample_size": 8,
            "in_channels": 4,
            "num_mmdit_layers": 2,
            "num_single_dit_layers": 2,
            "attention_head_dim": 16,
        }
        | {"num_attention_heads": 2, "joint_attention_dim": 20, "caption_projection_dim": 32, "pos_embed_max_size": 64},
        {**IMAGE, "text_tokens": 5},  # it puts eight tokens of its own beside them
    ),
    "CogView3PlusTransformer2DModel": ({**COGVIEW, "pos_embed_max_size": 8}, IMAGE),
    "CogView4Transformer2DModel": ({**COGVIEW, "pos_embed_max_size": 8, "rope_axes_dim": [16, 16]}, IMAGE),
    "GlmImageTransformer2DModel": ({**COGVIEW, "prior_vq_quantizer_codebook_size": 30}, IMAGE),
    "ErnieImageTransformer2DModel": (
        {"hidden_size": 32, "num_attention_heads": 2, "num_layers": 2, "ffn_hidden_size": 48, "in_channels": 8}
        | {"out_channels": 8, "text_in_dim": 20, "rope_axes_dim": [4, 6, 6]},
        {**IMAGE, "latent_height": 3, "latent_width": 5},
    ),
    "HiDreamImageTransformer2DModel": (
        {"patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 1, "num_single_layers": 2}
        | {"attention_head_dim": 8, "num_attention_heads": 4, "caption_channels": [12, 10], "text_emb_dim": 14}
        | {"num_routed_experts": 2, "num_activated_experts": 2, "axes_dims_rope": [4, 2, 2]}
        | {"max_resolution": [16, 20], "llama_layers": [0, 1, 2]},
        IMAGE,
    ),
    "HunyuanDiT2DModel": (
        {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "patch_size": 2, "sample_size": 8}
        | {"hidden_size": 32, "num_layers": 4, "cross_attention_dim": 20, "cross_attention_dim_t5": 24}
        | {"pooled_projection_dim": 12, "text_len": 7, "text_len_t5": 6, "activation_fn": "gelu-approximate"},
        {"latent_height": 6, "latent_width": 10},
    ),
    "HunyuanImageTransformer2DModel": (
        {**HUNYUAN, "patch_size": [1, 1], "rope_axes_dim": [8, 8]},
        {**IMAGE, "latent_height": 3, "latent_width": 5},
    ),
    "LuminaNextDiT2DModel": (
        {"sample_size": 8, "in_channels": 4, "hidden_size": 32, "num_layers": 2, "num_attention_heads": 2}
        | {"num_kv_heads": 1, "multiple_of": 4, "cross_attention_dim": 20},
        IMAGE,
    ),
    "OmniGenTransformer2DModel": (
        {"in_channels": 4, "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2, "num_layers": 2}
        | {"intermediate_size": 48, "pad_token_id": 0, "vocab_size": 40, "pos_embed_max_size": 8, "time_step_dim": 16}
        | {"rope_scaling": {"long_factor": [1.0] * 8, "short_factor": [1.0] * 8, "type": "su"}},
        IMAGE,
    ),
    "PRXTransformer2DModel": (
        {"in_channels": 4, "context_in_dim": 20, "hidden_size": 32, "num_heads": 2, "depth": 2, "axes_dim": [8, 8]},
        IMAGE,
    ),
    "PriorTransformer": ({**HEADS, "embedding_dim": 24, "num_embeddings": 7}, {}),
    "BriaTransformer2DModel": ({**FLUX}, IMAGE),
    "BriaFiboTransformer2DModel": ({**FLUX, "text_encoder_dim": 12}, IMAGE),
    "ChromaTransformer2DModel": (
        {**FLUX, "approximator_num_channels": 8, "approximator_hidden_dim": 12, "approximator_layers": 1},
        IMAGE,
    ),
    "Flux2Transformer2DModel": ({**FLUX, "axes_dims_rope": [4, 4, 4, 4], "timestep_guidance_channels": 16}, IMAGE),
    "Krea2Transformer2DModel": (
        {"in_channels": 8, "num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2}
        | {"num_key_value_heads": 1, "intermediate_size": 48, "timestep_embed_dim": 16, "text_hidden_dim": 24}
        | {"num_text_layers": 2, "text_num_attention_heads": 2, "text_num_key_value_heads": 1}
        | {"text_intermediate_size": 40, "num_layerwise_text_blocks": 1, "num_refiner_text_blocks": 1}
        | {"axes_dims_rope": [4, 6, 6]},
        IMAGE,
    ),
    "LongCatImageTransformer2DModel": ({**FLUX, "pooled_projection_dim": 20}, IMAGE),
    "OvisImageTransformer2DModel": ({**FLUX, "out_channels": 8}, IMAGE),
    "QwenImageTransformer2DModel": (
        {**HEADS, "in_channels": 8, "out_channels": 2, "joint_attention_dim": 20, "axes_dims_rope": [4, 6, 6]},
        IMAGE,
    ),
    "Lumina2Transformer2DModel": (
        {"sample_size": 8, "in_channels": 4, "hidden_size": 48, "num_layers": 2, "num_refiner_layers": 1}
        | {"num_attention_heads": 2, "num_kv_heads": 1, "multiple_of": 4, "axes_dim_rope": [8, 8, 8]}
        | {"axes_lens": [24, 16, 16], "cap_feat_dim": 20},
        {},
    ),
    "SanaTransformer2DModel": (
        {**HEADS, "in_channels": 4, "out_channels": 4, "num_cross_attention_heads": 2, "cross_attention_head_dim": 16}
        | {"cross_attention_dim": 32, "caption_channels": 20, "sample_size": 4},
        {"text_tokens": 7},
    ),
    "AllegroTransformer3DModel": (
        {"num_attention_heads": 2, "attention_head_dim": 24, "num_layers": 2, "cross_attention_dim": 48}
        | {"sample_height": 6, "sample_width": 10, "sample_frames": 2, "caption_channels": 20},
        VIDEO,
    ),
    "AnyFlowTransformer3DModel": ({**WAN}, VIDEO),
    "AnyFlowFARTransformer3DModel": (
        {**WAN, "chunk_partition": [1, 2]},
        {**VIDEO, "latent_height": 8, "latent_width": 8, "latent_frames": 3},
    ),
    "ChronoEditTransformer3DModel": ({**WAN, "in_channels": 9}, VIDEO),
    "CogVideoXTransformer3DModel": ({**COGVIDEO}, VIDEO),
    "CosmosTransformer3DModel": (
        {
            **HEADS,
            "in_channels": 4,
            "out_channels": 4,
            "text_embed_dim": 20,
            "adaln_lora_dim": 8,
            "max_size": [4, 16, 16],
        }
        | {"attention_head_dim": 12, "concat_padding_mask": False},
        VIDEO,
    ),
    "EasyAnimateTransformer3DModel": (
        {**HEADS, "in_channels": 4, "out_channels": 4, "patch_size": 2, "sample_width": 10, "sample_height": 6}
        | {"mmdit_layers": 2, "time_embed_dim": 8, "text_embed_dim": 20},
        VIDEO,
    ),
    "Kandinsky5Transformer3DModel": (
        {"in_visual_dim": 4, "in_text_dim": 20, "in_text_dim2": 12, "time_dim": 16, "out_visual_dim": 4}
        | {"model_dim": 32, "ff_dim": 48, "num_text_blocks": 1, "num_visual_blocks": 2, "axes_dims": [4, 6, 6]},
        VIDEO,
    ),
    "LatteTransformer3DModel": (
        {**HEADS, "in_channels": 4, "out_channels": 8, "patch_size": 2, "sample_size": 8, "video_length": 2}
        | {"cross_attention_dim": 32, "caption_channels": 20, "activation_fn": "gelu-approximate"}
        | {"norm_type": "ada_norm_single", "norm_elementwise_affine": False, "num_embeds_ada_norm": 1000},
        {**VIDEO, "latent_height": 8, "latent_width": 8},
    ),
    "LTXVideoTransformer3DModel": (
        {**HEADS, "in_channels": 8, "out_channels": 8, "cross_attention_dim": 32, "caption_channels": 20},
        {"latent_height": 3, "latent_width": 5, "latent_frames": 2, "text_tokens": 7},
    ),
    "MochiTransformer3DModel": (
        {**HEADS, "attention_head_dim": 8, "in_channels": 4, "time_embed_dim": 8, "pooled_projection_dim": 10}
        | {"text_embed_dim": 16, "max_sequence_length": 7},
        VIDEO,
    ),
    "SanaVideoTransformer3DModel": (
        {**HEADS, "in_channels": 4, "out_channels": 4, "num_cross_attention_heads": 2, "cross_attention_head_dim": 16}
        | {"cross_attention_dim": 32, "caption_channels": 20, "rope_max_seq_len": 32},
        VIDEO,
    ),
    "SkyReelsV2Transformer3DModel": ({**WAN}, VIDEO),
    "WanTransformer3DModel": ({**WAN}, VIDEO),
    "WanVACETransformer3DModel": ({**WAN, "vace_layers": [0, 1], "vace_in_channels": 8}, VIDEO),
    "HunyuanVideoTransformer3DModel": ({**HUNYUAN, "pooled_projection_dim": 12}, VIDEO),
    "HunyuanVideo15Transformer3DModel": (
        {**HEADS, "in_channels": 4, "out_channels": 4, "num_refiner_layers": 1, "text_embed_dim": 12}
        | {"text_embed_2_dim": 10, "image_embed_dim": 6, "rope_axes_dim": [4, 6, 6], "task_type": "t2v"},
        {"latent_height": 3, "latent_width": 5, "latent_frames": 2, "text_tokens": 7},
    ),
    "StableAudioDiTModel": (
        {"sample_size": 13, "in_channels": 8, "num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2}
        | {"num_key_value_attention_heads": 1, "out_channels": 8, "cross_attention_dim": 24, "time_proj_dim": 16}
        | {"global_states_input_dim": 20, "cross_attention_input_dim": 24},
        {"text_tokens": 7},
    ),
    "LongCatAudioDiTTransformer": (
        {"dit_dim": 32, "dit_depth": 2, "dit_heads": 2, "dit_text_dim": 20, "latent_dim": 8},
        {"latent_frames": 13, "text_tokens": 7},
    ),
    "AceStepTransformer1DModel": (
        {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
        | {"num_key_value_heads": 1, "head_dim": 16, "in_channels": 24, "audio_acoustic_hidden_dim": 8},
        {"latent_frames": 26, "text_tokens": 7},
    ),
}
"""Class -> constructor arguments, and the options that its config leaves open."""
