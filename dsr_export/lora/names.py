"""What a tensor of a LoRA file is, told by its name: of which part of a pipeline, of which layer, up or down.

PEFT writes `transformer.blocks.0.to_q.lora_A.weight` (down) and `.lora_B.weight` (up), kohya-ss
`lora_transformer_blocks_0_to_q.lora_down.weight`, `.lora_up.weight` and `.alpha`, diffusers before 0.22
`.lora.down.weight` and `.lora.up.weight`.
"""

from __future__ import annotations

from dataclasses import dataclass

DOWN, UP, ALPHA = "down", "up", "alpha"
_ENDS = {
    ".lora_A.weight": DOWN,
    ".lora_B.weight": UP,
    ".lora_A.default.weight": DOWN,
    ".lora_B.default.weight": UP,
    ".lora_down.weight": DOWN,
    ".lora_up.weight": UP,
    ".lora.down.weight": DOWN,
    ".lora.up.weight": UP,
    ".alpha": ALPHA,
}
_OTHER_KINDS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_w": "LoHa",
    "lokr_w": "LoKr",
    "lora_embedding": "an embedding's adapter",
    "lora_B.bias": "a LoRA with biases",
    "lora_up.bias": "a LoRA with biases",
    ".diff": "differences of whole weights",
}
_PARTS = {
    "transformer.": "transformer",
    "base_model.model.": "transformer",
    "diffusion_model.": "transformer",
    "lora_transformer_": "transformer",
    "lora_unet_": "transformer",
    "text_encoder_3.": "text_encoder_3",
    "text_encoder_2.": "text_encoder_2",
    "text_encoder.": "text_encoder",
    "lora_te3_": "text_encoder_3",
    "lora_te2_": "text_encoder_2",
    "lora_te1_": "text_encoder",
    "lora_te_": "text_encoder",
}


@dataclass(frozen=True)
class Placed:
    """`layer` is named as its part names it, with dots or (kohya-ss) with underscores for them."""

    part: str
    layer: str
    role: str


def placed(name: str) -> Placed | None:
    """None for a tensor that is none of a LoRA's."""
    end = next((end for end in _ENDS if name.endswith(end)), None)
    if end is None:
        return None
    layer = name.removesuffix(end)
    prefix = next((prefix for prefix in _PARTS if layer.startswith(prefix)), "")
    return Placed(_PARTS.get(prefix, "transformer"), layer.removeprefix(prefix), _ENDS[end])


def other_kind(name: str) -> str | None:
    """What kind of adapter a tensor is of that is no plain LoRA; None where its name does not tell."""
    return next((kind for mark, kind in _OTHER_KINDS.items() if mark in name), None)
