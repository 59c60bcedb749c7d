"""A text-to-image transformer with outliers that random weights have none of: SD3, a documented edit.

tokens     the picture's four corners, by their rows of the position table, and the prompt's padding, by what the
           context embedder makes of `PADDING`: sinks of either stream
channels   CHANNELS of every modulated norm, and of attention's values, become GAIN times larger and the weights that
           read them GAIN times smaller, in both streams: the same function, harder to quantise
massive    in one block, a few hidden channels of both MLPs that answer to the planted tokens alone (Sun et al., arXiv
           2402.17762)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from calibration.collect import Call
from dsr_export.families import FamilyRequest
from dsr_export.families.diffusers.models import load
from dsr_export.subject import Subject

Array = npt.NDArray[Any]
SIZES = {"num_layers": 3, "num_attention_heads": 4, "attention_head_dim": 24, "sample_size": 16, "in_channels": 4}
TEXT = {"joint_attention_dim": 48, "pooled_projection_dim": 32, "pos_embed_max_size": 8, "text_tokens": 24}
GRID, WIDTH, TOKENS = 8, 48, 24
PADDING = np.ones(WIDTH, np.float32)
"""What a text encoder makes of every token of padding; those of prompts are at right angles to it."""
MAGNITUDES = (40.0, 30.0, 35.0, 25.0)
GAIN = 50.0
CHANNELS = (7, 41, 73)
MASSIVE_BLOCK, MASSIVE = 1, (19, 203)
ALIGNMENT = 3.0  # an ordinary token's projection on the planted direction is about 1, a planted one's sqrt(D)


def planted_sd3() -> Subject:
    """The subject, of random weights."""
    subject = load(FamilyRequest(model="sd3", random_weights=0, options={**SIZES, **TEXT}))
    plant(subject.module.transformer)
    return subject


@torch.no_grad()
def plant(transformer: Any) -> None:
    """All three, in place."""
    plant_tokens(transformer)
    plant_massive(transformer.transformer_blocks[MASSIVE_BLOCK], transformer.inner_dim)
    for block in transformer.transformer_blocks:
        plant_channels(block, transformer.inner_dim)


def plant_tokens(transformer: Any) -> None:
    """The residual streams carry them through all blocks."""
    sink = _direction(transformer.inner_dim) * math.sqrt(transformer.inner_dim / 2)
    table = transformer.pos_embed.pos_embed  # [1, GRID * GRID, D]
    for row, magnitude in zip((0, GRID - 1, GRID * (GRID - 1), GRID * GRID - 1), MAGNITUDES, strict=True):
        table[0, row] += magnitude * sink
    seen = torch.from_numpy(PADDING / np.square(PADDING).sum())
    transformer.context_embedder.weight += MAGNITUDES[0] * sink[:, None] * seen[None]


def plant_massive(block: Any, dim: int) -> None:
    """Hidden channels of both streams' MLPs that only the planted direction switches on."""
    for mlp in (block.ff, block.ff_context):
        for channel in MASSIVE:
            mlp.net[0].proj.weight[channel] += ALIGNMENT * _direction(dim)


def plant_channels(block: Any, dim: int, channels: tuple[int, ...] = CHANNELS) -> None:
    """Outlier channels of both streams; what the model computes stays the same."""
    attn, which = block.attn, list(channels)
    _grow(block.norm1.linear, 0, dim, [attn.to_q, attn.to_k, attn.to_v], which)
    _grow(block.norm1.linear, 3 * dim, 4 * dim, [block.ff.net[0].proj], which)
    readers = [attn.add_q_proj, attn.add_k_proj, attn.add_v_proj]
    if block.ff_context is None:  # the last block's norm of the prompt gives scales before shifts
        _grow(block.norm1_context.linear, dim, 0, readers, which)
    else:
        _grow(block.norm1_context.linear, 0, dim, readers, which)
        _grow(block.norm1_context.linear, 3 * dim, 4 * dim, [block.ff_context.net[0].proj], which)
    for each in (attn.to_v, attn.add_v_proj):
        each.weight[which] *= GAIN
        each.bias[which] *= GAIN
    for each in [attn.to_out[0]] if block.ff_context is None else [attn.to_out[0], attn.to_add_out]:
        each.weight[:, which] /= GAIN


def _grow(made: nn.Linear, shift: int, scale: int, readers: list[nn.Linear], channels: list[int]) -> None:
    """`norm(x) * (1 + scale) + shift` grows through the rows of AdaLN that make both."""
    for row in channels:
        made.weight[[shift + row, scale + row]] *= GAIN
        made.bias[[shift + row, scale + row]] *= GAIN
        made.bias[scale + row] += GAIN - 1
    for reader in readers:
        reader.weight[:, channels] /= GAIN


def _direction(dim: int) -> Tensor:
    return torch.tensor([1.0, -1.0]).repeat(dim // 2) / math.sqrt(dim)


def calls(subject: Subject, *, seed: int, count: int, rows: int = 4) -> list[Call]:
    """Calls with prompts of random length, padded, and times from noise to picture."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        inputs = subject.example(rows, seed=seed * 1000 + i)
        inputs["encoder_hidden_states"] = np.stack([_prompt(rng) for _ in range(rows)])
        progress = 1 - inputs["timestep"] / 1000
        made.append(Call(inputs, np.arange(rows) + rows * i, progress))
    return made


def _prompt(rng: np.random.Generator) -> Array:
    states = rng.standard_normal((TOKENS, WIDTH)).astype(np.float32)
    states -= states.mean(axis=1, keepdims=True)
    states[rng.integers(TOKENS // 4, TOKENS) :] = PADDING
    return states
