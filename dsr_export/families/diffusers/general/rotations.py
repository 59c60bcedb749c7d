"""Constants of pipelines that need diffusers' own tables of cosines and sines, and the odd single values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dsr_export.families.diffusers.general.sizes import Sizes

LUMINA_SIDE = 384  # of its pipeline's table
AUDIO_FRAMES = 16
_HISTORY = (1, 16, 2, 1)  # frames: the first, and those before, from far to near


def _crop(sizes: Sizes, base: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where the picture lies in a base grid of rows and columns, as large as fits, in its middle."""
    (_, rows, columns), (high, wide) = sizes.grid, base
    if rows / columns > high / wide:
        tall, broad = high, round(high / rows * columns)
    else:
        tall, broad = round(wide / columns * rows), wide
    top, left = round((high - tall) / 2), round((wide - broad) / 2)
    return (top, left), (top + tall, left + broad)


def cogvideo_rotary(sizes: Sizes) -> tuple[Tensor, Tensor]:
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    config, (frames, rows, columns) = sizes.config, sizes.grid
    patch = config["patch_size"]
    base = config["sample_height"] // patch, config["sample_width"] // patch
    if config.get("patch_size_t") is None:
        how: dict[str, Any] = {"crops_coords": _crop(sizes, base)}
    else:
        how = {"crops_coords": None, "grid_type": "slice", "max_size": base}
    head = config["attention_head_dim"]
    make: Any = get_3d_rotary_pos_embed
    made: tuple[Tensor, Tensor] = make(embed_dim=head, grid_size=(rows, columns), temporal_size=frames, **how)
    return made


def cogvideo_ofs(sizes: Sizes) -> Tensor:
    return torch.tensor([2.0])


def allegro_rotary(sizes: Sizes) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    from diffusers.models.embeddings import get_3d_rotary_pos_embed_allegro

    config, (frames, rows, columns) = sizes.config, sizes.grid
    found = get_3d_rotary_pos_embed_allegro(
        embed_dim=config["attention_head_dim"],
        crops_coords=((0, 0), (rows, columns)),
        grid_size=(rows, columns),
        temporal_size=frames,
        interpolation_scale=tuple(config[f"interpolation_scale_{axis}"] for axis in "thw"),
    )
    places = torch.cartesian_prod(*(axis.long() for axis in found[3:]))
    return tuple(found[:3]), tuple(places.T.reshape(3, 1, -1))


def hunyuan_rotary(sizes: Sizes) -> tuple[Tensor, Tensor]:
    from diffusers.models.embeddings import get_2d_rotary_pos_embed

    config, (_, rows, columns) = sizes.config, sizes.grid
    base = 512 // 8 // config["patch_size"]
    head = config["attention_head_dim"]
    crop = _crop(sizes, (base, base))
    made: tuple[Tensor, Tensor] = get_2d_rotary_pos_embed(head, crop, (rows, columns), output_type="pt")
    return made


def lumina_rotary(sizes: Sizes) -> Tensor:
    from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina

    head = sizes.config["hidden_size"] // sizes.config["num_attention_heads"]
    make: Any = get_2d_rotary_pos_embed_lumina
    made: Tensor = make(head, LUMINA_SIDE, LUMINA_SIDE)
    return made


def stable_audio_rotary(sizes: Sizes) -> tuple[Tensor, Tensor]:
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    half, length = sizes.config["attention_head_dim"] // 2, sizes.frames + 1  # the token of time and length
    made: tuple[Tensor, Tensor] = get_1d_rotary_pos_embed(half, length, use_real=True, repeat_interleave_real=False)
    return made


def ltx_scale(sizes: Sizes) -> tuple[float, int, int]:
    """Its encoder takes 8 frames, 32 rows and 32 columns at once; 25 frames a second."""
    return 8 / 25, 32, 32


def cosmos_fps(sizes: Sizes) -> int:
    """30 in Cosmos 1, which learnt its positions beside, and 16 later."""
    return 30 if sizes.config.get("extra_pos_embed_type") else 16


def no_padding(sizes: Sizes) -> Tensor:
    return torch.zeros(1, 1, sizes.height, sizes.width)


def skyreels_fps(sizes: Sizes) -> list[int]:
    return [1]


def _frames(start: int, count: int) -> Tensor:
    return torch.arange(start, start + count)


def _helios(part: int) -> Callable[[Sizes], Tensor]:
    """Frame numbers [1, n] of a part of the history: far 16, then 2, then the first with the last, then now."""

    def made(sizes: Sizes) -> Tensor:
        first, far, mid, near = _HISTORY
        past = first + far + mid
        parts = (
            _frames(first, far),
            _frames(first + far, mid),
            torch.tensor([0, past]),
            _frames(past + near, sizes.frames),
        )
        return parts[part][None].float()

    return made


def _framepack(part: int) -> Callable[[Sizes], Tensor]:
    """Frame numbers of its last section: the first frame, those being made, then 1, 2 and 16 made before."""

    def made(sizes: Sizes) -> Tensor:
        end = 1 + sizes.frames
        parts = (_frames(1, sizes.frames), torch.tensor([0, end]), _frames(end + 1, 2), _frames(end + 3, 16))
        return parts[part]

    return made


def _h3(sizes: Sizes) -> dict[str, Tensor]:
    """The one sequence of prompt, sound and film: which tokens are whose, and their places [S, 3]."""
    text, film = sizes.text, sizes.cells
    (frames, rows, columns), start = sizes.grid, sizes.text + AUDIO_FRAMES
    steps = torch.tensor([0.0, *((5 / 3) * (1 if i % 5 == 0 else 4) for i in range(frames - 1))]).cumsum(0)
    axes = [_axis(length, count, sizes) for length, count in ((sizes.height, rows), (sizes.width, columns))]
    places = torch.zeros(start + film, 3)
    places[:text, 0] = torch.arange(text)
    places[text:start, 0] = text + torch.arange(AUDIO_FRAMES)
    places[text:start, 2] = axes[1][0]
    places[start:] = torch.cartesian_prod(text + steps, *axes)
    tags = torch.tensor([1] * text + [2] * AUDIO_FRAMES + [0] * film)
    return {
        "h3_times": torch.zeros(start + film, dtype=torch.long),
        "h3_tags": tags,
        "h3_places": places,
        "h3_film": _frames(start, film),
        "h3_sound": _frames(text, AUDIO_FRAMES),
        "h3_prompt": _frames(0, text),
    }


def omni_places(sizes: Sizes) -> Tensor:
    """[3, S]: the prompt counts on all three axes; frames stand far behind it, rows and columns begin anew."""
    text, config = sizes.text, sizes.config
    margin = text + config["unified_3d_mrope_temporal_modality_margin"]
    film = torch.cartesian_prod(*(torch.arange(count) for count in sizes.grid)).reshape(-1, 3).float()
    offset = margin if not config["unified_3d_mrope_reset_spatial_ids"] else 0
    film = film + torch.tensor([margin, offset, offset])
    return torch.cat([torch.arange(text).float()[:, None].expand(-1, 3), film]).T.contiguous()


def _axis(length: int, count: int, sizes: Sizes) -> Tensor:
    """Rows or columns of a square of 32 of the same area, around its middle."""
    ratio = length / math.sqrt(sizes.height * sizes.width)
    return ((1 - ratio) / 2 + torch.arange(count) * ratio / count) * 32


def _of_h3(name: str) -> Callable[[Sizes], Tensor]:
    return lambda sizes: _h3(sizes)[name]


ROTATIONS: Mapping[str, Callable[[Sizes], Any]] = {
    **{
        each.__name__: each
        for each in (
            *(cogvideo_rotary, cogvideo_ofs, allegro_rotary, hunyuan_rotary, lumina_rotary, stable_audio_rotary),
            *(omni_places, ltx_scale, cosmos_fps, no_padding, skyreels_fps),
        )
    },
    **{f"helios_{name}": _helios(i) for i, name in enumerate(("long", "mid", "short", "now"))},
    **{f"framepack_{name}": _framepack(i) for i, name in enumerate(("now", "clean", "2x", "4x"))},
    **{name: _of_h3(name) for name in ("h3_times", "h3_tags", "h3_places", "h3_film", "h3_sound", "h3_prompt")},
    "frames": lambda sizes: sizes.frames,
    "height": lambda sizes: sizes.height,
    "width": lambda sizes: sizes.width,
    "no_picture": lambda sizes: torch.zeros(1, 729, sizes.config["image_embed_dim"]),
    "omni_film": lambda sizes: _frames(sizes.text, sizes.cells),
    "omni_shapes": lambda sizes: [sizes.grid],
    "omni_noisy": lambda sizes: [torch.arange(sizes.frames)],
    "text_count": lambda sizes: sizes.text,
    "all_count": lambda sizes: sizes.text + sizes.cells,
    "sixteen": lambda sizes: AUDIO_FRAMES,
    "nothing_listed": lambda sizes: [],
    "nothing_named": lambda sizes: {},
    "first_patch": lambda sizes: sizes.patch[1],
    "first_frame_patch": lambda sizes: sizes.patch[0],
    "grid_shapes": lambda sizes: [[sizes.grid]],
    "one_shape": lambda sizes: [[sizes.grid]],
    "axis_places": lambda sizes: [torch.arange(count) for count in sizes.grid],
    "text_places": lambda sizes: torch.arange(sizes.text),
    "all_faces": lambda sizes: lambda rows: rows * (4 * sizes.frames - 7),
    "chunks": lambda sizes: _chunks(sizes),
}


def _chunks(sizes: Sizes) -> list[int]:
    """The config's, where they are as many frames; else one."""
    chunks = list(sizes.config.get("chunk_partition") or ())
    return chunks if sum(chunks) == sizes.frames else [sizes.frames]
