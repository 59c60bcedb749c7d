"""A tiny SD3 pipeline with sinks in both streams: the picture's corners, and the padding of T5's tokens."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.pipelines.tiny_pipelines import OPTIONS, tiny_pipeline

SIZES = dict(OPTIONS["sd3"])
PROMPTS = ("a small red dog and a big blue cat on the table", "a big red cat and a small blue dog on the table")
"""They fill T5's twelve tokens, but for one: the absence of a prompt is what has the padding."""
FREE = 31  # the channel of T5 that padding has to itself


@torch.no_grad()
def planted_pipeline(folder: Path) -> Path:
    """The folder, as `save_pretrained` leaves it."""
    pipe = tiny_pipeline("sd3", folder)
    t5, padding = pipe.text_encoder_3, pipe.text_encoder_3.config.pad_token_id
    t5.shared.weight[:, FREE] = 0
    t5.shared.weight[padding] = 10 * torch.eye(t5.config.d_model)[FREE]
    for block in t5.encoder.block:
        block.layer[0].SelfAttention.o.weight[FREE] = 0
        block.layer[-1].DenseReluDense.wo.weight[FREE] = 0
    t5.encoder.final_layer_norm.weight[FREE] = 50
    table = pipe.transformer.pos_embed.pos_embed.view(8, 8, -1)  # of which the middle four by four is used
    for row in (2, 5):
        for column in (2, 5):
            table[row, column] += 30
    pipe.save_pretrained(folder / "pipe")
    return folder / "pipe"
