"""The sizes that shapes are made of: what is static in the graph, from the options, the config or the recipe."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dsr_export.errors import ExportError
from dsr_export.families.config_bounds import MOST_SIDE
from dsr_export.families.diffusers.general.recipes.recipe import ClassRecipe

SIZES: Mapping[str, int] = {
    "latent_height": MOST_SIDE,
    "latent_width": MOST_SIDE,
    "latent_frames": MOST_SIDE,
    "text_tokens": 2**16,
}
"""Options, which are what is static in the graph, and the most that each may be."""

_OWN = ("height", "width", "frames", "text", "tokens", "cells")
_INDEXED = re.compile(r"(\w+)\[(\d+)\]")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """`config` is the transformer's own, with its defaults; `asked` holds the options `latent_height` and the like."""

    config: Mapping[str, Any]
    recipe: ClassRecipe
    asked: Mapping[str, int] = field(default_factory=dict)

    @property
    def patch(self) -> tuple[int, int, int]:
        """Frames, height and width of a patch that the model makes: none of tokens that its pipeline packs."""
        if "tokens" in self.recipe.latent:
            return 1, 1, 1
        size = (
            self.config.get("patch_size")
            or self.config.get("latent_patch_size")
            or (self.config.get("all_patch_size") or (1,))[0]
        )
        frames = self.config.get("patch_size_t") or (self.config.get("all_f_patch_size") or (1,))[0]
        sides = (size,) if isinstance(size, int) else tuple(size)
        return (frames, sides[0], sides[-1]) if len(sides) < 3 else (sides[0], sides[1], sides[2])

    @property
    def height(self) -> int:
        return self._side("height", 1)

    @property
    def width(self) -> int:
        return self._side("width", 2)

    @property
    def frames(self) -> int:
        """Latent frames of a video, or the length of a sound."""
        count = self.asked.get("latent_frames") or self._default(self.recipe.frames)
        if count % self.patch[0]:
            fits = f"give a multiple, for example latent_frames={math.ceil(count / self.patch[0]) * self.patch[0]}"
            raise ExportError(f"patches of {self.patch[0]} frames do not divide {count} latent frames", hint=fits)
        return count

    @property
    def text(self) -> int:
        return self.asked.get("text_tokens") or self._default(self.recipe.text)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Frames, rows and columns of the model's tokens."""
        (time, high, wide), pack = self.patch, self.recipe.pack
        return self.frames // time, self.height // (high * pack), self.width // (wide * pack)

    @property
    def tokens(self) -> int:
        """Tokens that a pipeline packs: one for each `pack` x `pack` cells of each frame."""
        return self.frames * (self.height // self.recipe.pack) * (self.width // self.recipe.pack)

    @property
    def cells(self) -> int:
        """Tokens of the picture or film."""
        return math.prod(self.grid)

    def of(self, word: str) -> int:
        """The number that a word of a shape stands for: a size, an entry of the config, or a number.

        `a+b`, `a-b` and `a*b` are reckoned (in that order of binding), `a|b` is the first that the config sets, and
        `a[0]` an element.
        """
        for sign in "+-":
            if sign in word:
                left, right = word.rsplit(sign, 1)
                return self.of(left) + (self.of(right) if sign == "+" else -self.of(right))
        if "*" in word:
            return math.prod(self.of(factor) for factor in word.split("*"))
        found = [self._entry(name) for name in word.split("|")]
        value = next((each for each in found if each is not None), None)
        if not isinstance(value, int):
            raise ExportError(
                f"the config sets no {word.replace('|', ', and no ')}", hint="compare it with the model's own"
            )
        return value

    def has(self, word: str) -> bool:
        """Whether the config sets `word` (of `a|b` either), or where it is reckoned, whether that is above 0."""
        if set(word) & set("+-*"):
            return self.of(word) > 0
        return not word or any(bool(self._entry(name)) for name in word.split("|"))

    def shape(self, words: str) -> tuple[int, ...]:
        return tuple(self.of(word) for word in words.split())

    def _entry(self, name: str) -> Any:
        if name.isdigit():
            return int(name)
        indexed = _INDEXED.fullmatch(name)
        if indexed:
            values = self.config.get(indexed[1])
            return None if values is None else values[int(indexed[2])]
        if name in _OWN:
            return getattr(self, name)
        return COUNTED[name](self.config) if name in COUNTED else self.config.get(name)

    def _default(self, size: int | str) -> int:
        return size if isinstance(size, int) else self.of(size)

    def _side(self, name: str, axis: int) -> int:
        cells = self.patch[axis] * self.recipe.pack
        length = self.asked.get(f"latent_{name}") or self._configured(name, axis) or self.recipe.patches * cells
        if length % cells:
            fits = f"give a multiple, for example latent_{name}={math.ceil(length / cells) * cells}"
            raise ExportError(f"patches of {cells} do not divide a latent {name} of {length}", hint=fits)
        return length

    def _configured(self, name: str, axis: int) -> int | None:
        size = self.config.get(f"sample_{name}") or self.config.get("sample_size")
        return size[axis - 1] if isinstance(size, list | tuple) else size


def _cogvideo_frames(config: Mapping[str, Any]) -> int:
    """Latent frames of a clip of `sample_frames`, in whole patches."""
    patch = config.get("patch_size_t")
    frames: int = (config["sample_frames"] - 1) // config["temporal_compression_ratio"] + 1
    return frames if patch is None else math.ceil(frames / patch) * int(patch)


def _visual_channels(config: Mapping[str, Any]) -> int:
    """Kandinsky's: with a condition, its latent and its mask come behind the noisy one."""
    channels: int = config["in_visual_dim"]
    return 2 * channels + 1 if config.get("visual_cond") else channels


def _ltx2_text(config: Mapping[str, Any], inner: str) -> int:
    """LTX-2 projects the prompt itself, or is given it as wide as its blocks."""
    width: int = config["caption_channels"] if config.get("use_prompt_embeddings") else config[inner]
    return width


COUNTED: Mapping[str, Any] = {
    "cogvideo_frames": _cogvideo_frames,
    "visual_channels": _visual_channels,
    "llama_depth": lambda config: max(config.get("llama_layers") or (0,)) + 1,
    "allegro_turns": lambda config: config["attention_head_dim"] % 6 == 0,
    "cogvideo_turns": lambda config: (
        config["use_rotary_positional_embeddings"] and config["attention_head_dim"] % 16 == 0
    ),
    "two_pictures": lambda config: config.get("image_dim") and config.get("pos_embed_seq_len"),
    "from_picture": lambda config: config["task_type"] == "i2v",
    "bundles": lambda config: len(config.get("injection_layer_ids") or ()) + 1,
    "half_axis": lambda config: config["axes_lens"][0] // 2,
    "ltx2_text_width": lambda config: _ltx2_text(config, "cross_attention_dim"),
    "ltx2_audio_text_width": lambda config: _ltx2_text(config, "audio_cross_attention_dim"),
    "patch_channels": lambda config: math.prod(config["patch_size"]) * config["in_channels"],
}
"""Sizes that are counted from a config."""
