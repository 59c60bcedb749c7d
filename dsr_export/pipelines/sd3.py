"""Stable Diffusion 3 and 3.5: two CLIP encoders side by side, T5 behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dsr_export.errors import ExportError
from dsr_export.families.text_encoders.reads import Reads
from dsr_export.pipelines.parts import PipelineSizes, TextPart, VaePart
from dsr_export.pipelines.recipe import Array, Encoded, Recipe, dynamic_shift, text_width

CLIPS, T5 = ("text_encoder", "text_encoder_2"), "text_encoder_3"
T5_TOKENS = 256
SIDE, CHANNELS, WIDTH = 128, 16, 4096


class StableDiffusion3(Recipe):
    """`StableDiffusion3Pipeline`, arXiv 2403.03206; without T5 its tokens are zeros."""

    names = ("StableDiffusion3Pipeline",)
    roles = (*CLIPS, T5)
    steps, guidance = 28, 7.0

    @classmethod
    def text_parts(cls, sizes: PipelineSizes) -> tuple[TextPart, ...]:
        tokens, long = sizes.longest("tokenizer"), _t5_tokens(sizes)
        reads = Reads(tokens=tokens, hidden="penultimate", pooled=True)
        clips = tuple(TextPart(role=role, tokenizer=_tokenizer(role), reads=reads) for role in CLIPS)
        if T5 not in sizes.folder.classes:
            return clips
        t5 = TextPart(role=T5, tokenizer=_tokenizer(T5), reads=Reads(tokens=long))
        text_width(sizes, [t5], int(sizes.transformer.get("joint_attention_dim", WIDTH)), "joint_attention_dim")
        return *clips, t5

    @classmethod
    def vae_part(cls, sizes: PipelineSizes) -> VaePart:
        return sizes.vae(sizes.latent(SIDE), int(sizes.transformer.get("in_channels", CHANNELS)), shifted=True)

    @classmethod
    def options(cls, sizes: PipelineSizes) -> dict[str, int]:
        return {"text_tokens": sizes.longest("tokenizer") + _t5_tokens(sizes)}

    @classmethod
    def settings(cls, sizes: PipelineSizes) -> dict[str, Any]:
        return {"t5_tokens": _t5_tokens(sizes)}

    @property
    def prompt_tokens(self) -> int:
        return self.record.text[CLIPS[0]].tokens + int(self.record.settings["t5_tokens"])

    def conditions(self, encoded: Mapping[str, Encoded], *, negative: bool) -> dict[str, Array]:
        """`encoder_hidden_states` [n, 77 + T5's tokens, D], `pooled_projections`."""
        clips = [encoded[role] for role in CLIPS]
        states = np.concatenate([each.hidden for each in clips], -1)
        width = self.shapes["encoder_hidden_states"][1]
        states = np.pad(states, ((0, 0), (0, 0), (0, width - states.shape[-1])))
        long = np.zeros((len(states), int(self.record.settings["t5_tokens"]), width), np.float32)
        long = encoded[T5].hidden if T5 in encoded else long
        return {
            "encoder_hidden_states": np.concatenate([states, long], 1),
            "pooled_projections": np.concatenate([each.vector for each in clips], -1),
        }

    def prompt_mask(self, encoded: Mapping[str, Encoded]) -> Array:
        """Both CLIP encoders share a place: a token of either is none of padding."""
        clips = np.maximum(*(encoded[role].mask for role in CLIPS))
        long = np.zeros((len(clips), int(self.record.settings["t5_tokens"])), clips.dtype)
        return np.concatenate([clips, encoded[T5].mask if T5 in encoded else long], 1)

    def start(self, scheduler: Mapping[str, Any], steps: int) -> dict[str, Any]:
        if not scheduler.get("use_dynamic_shifting"):
            return {}
        _, height, width = self.latent
        patch = int(self.config["patch_size"])
        return {"mu": dynamic_shift(scheduler, (height // patch) * (width // patch), most=1.16)}


def _t5_tokens(sizes: PipelineSizes) -> int:
    """What CLIP's tokens leave of the transformer's."""
    clip = sizes.longest("tokenizer")
    total = sizes.size("text_tokens", clip + T5_TOKENS)
    if total <= clip:
        raise ExportError(f"option text_tokens={total}: CLIP's {clip} leave none for T5", hint=f"give more than {clip}")
    return total - clip


def _tokenizer(role: str) -> str:
    return role.replace("text_encoder", "tokenizer")
