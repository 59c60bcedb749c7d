"""A pipeline's parts of torch, and bundles of small graphs that say they were built of them: what is called is real.

Text encoders of six tokens and three channels, latents [2, 4, 4], pictures [3, 8, 8].
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx.parser
import pytest
import torch

from dsr_export.bundle.reader import Bundle
from dsr_export.bundle.writer import write_bundle
from tests.pipelines.handmade import SIZE, manifest_of, pipeline_bundle

TOKENS, WIDTH, LAYERS = 6, 3, 2
CLIP, T5, VAE = "text_encoder", "text_encoder_2", "vae"
ALL = (VAE, CLIP, T5)
IDS = torch.tensor([[3, 5, 6, 1, 1, 1], [3, 7, 8, 9, 1, 1]])
ROW = torch.tensor([1.0, 2.0, 3.0])
"""What an id is multiplied by, for each channel of its state."""
Z = torch.arange(64.0).view(2, 2, 4, 4)
HEAD = '<ir_version: 10, opset_import: ["" : 20]>'
T5_GRAPH = f"""{HEAD} t5 (int64[batch,6] ids, int64[batch,6] mask) => (float[batch,6,3] embeds)
<int64[1] last = {{-1}}, float[3] row = {{1, 2, 3}}> {{
  kept = Mul(ids, mask)
  numbers = Cast<to=1>(kept)
  column = Unsqueeze(numbers, last)
  embeds = Mul(column, row)
}}"""
CLIP_GRAPH = f"""{HEAD} clip (int64[batch,6] ids) => (float[batch,6,3] embeds, float[batch,3] pooled)
<int64[1] last = {{-1}}, int64[1] tokens = {{1}}, float[3] row = {{1, 2, 3}}> {{
  numbers = Cast<to=1>(ids)
  column = Unsqueeze(numbers, last)
  embeds = Mul(column, row)
  pooled = ReduceSum<keepdims=0>(embeds, tokens)
}}"""
DECODER = f"""{HEAD} vae (float[batch,2,4,4] z) => (float[batch,3,8,8] image)
<int64[3] channels = {{0, 1, 0}}, float[4] scales = {{1, 1, 2, 2}}> {{
  three = Gather<axis=1>(z, channels)
  image = Resize<mode="nearest">(three, , scales)
}}"""
_SMALL = "small = AveragePool<kernel_shape=[2, 2], strides=[2, 2]>(image) z = Gather<axis=1>(small, channels)"
ENCODER = f"""{HEAD} back (float[batch,3,8,8] image) => (float[batch,2,4,4] z, float[batch,2,4,4] log_variance)
<int64[2] channels = {{0, 1}}, float third = {{-3}}> {{
  {_SMALL}
  none = Sub(z, z)
  log_variance = Add(none, third)
}}"""
OLD_ENCODER = f"""{HEAD} back (float[batch,3,8,8] image) => (float[batch,2,4,4] z)
<int64[2] channels = {{0, 1}}> {{
  {_SMALL}
}}"""
"""As bundles held it before: without the variance."""
TEXT = {"text_tokens": TOKENS, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "vocab_size": SIZE}
KL = {"_class_name": "AutoencoderKL", "latent_channels": 2, "block_out_channels": [2, 2], "scaling_factor": 0.5}
PARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "text_encoder": (CLIP_GRAPH, {**TEXT, "_class_name": "CLIPTextModelWithProjection", "hidden_state": "penultimate"}),
    "text_encoder_2": (T5_GRAPH, {**TEXT, "_class_name": "T5EncoderModel", "hidden_state": "last"}),
    "vae": (DECODER, KL),
    "vae_encoder": (ENCODER, KL),
}


def handmade_pipe() -> Any:
    """Its parts, without a class around them: what `attach` knows of a pipeline are its attributes."""
    missing = "the models extra is not installed"
    diffusers = pytest.importorskip("diffusers", reason=missing)
    transformers = pytest.importorskip("transformers", reason=missing)
    text = {"hidden_size": WIDTH, "num_attention_heads": 1, "num_hidden_layers": LAYERS, "vocab_size": SIZE}
    text |= {"bos_token_id": 3, "eos_token_id": 1, "pad_token_id": 1}
    text |= {"intermediate_size": 4, "projection_dim": WIDTH, "max_position_embeddings": TOKENS}
    sizes = {"d_model": WIDTH, "d_kv": 2, "num_heads": 1, "num_layers": LAYERS, "d_ff": 4, "vocab_size": SIZE}
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    kl = {name: value for name, value in KL.items() if name[0] != "_"}
    with torch.random.fork_rng(devices=[]):
        return SimpleNamespace(
            text_encoder=transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**text)).eval(),
            text_encoder_2=transformers.T5EncoderModel(transformers.T5Config(**sizes)).eval(),
            text_encoder_3=None,
            vae=diffusers.AutoencoderKL(**blocks, **kl, norm_num_groups=1, sample_size=8).eval(),
        )


def handmade_bundle(folder: Path, *left_out: str, graphs: Mapping[str, str] = {}, **changed: dict[str, Any]) -> Bundle:
    """A bundle that holds the parts but for those `left_out`; `changed` are values of a part's configuration, `graphs`
    those of parts that have another."""
    made = {}
    for role, (text, config) in PARTS.items():
        if role not in left_out:
            model = onnx.parser.parse_model(graphs.get(role, text))
            manifest = manifest_of(role, model, **{**config, **changed.get(role, {})})
            contents: dict[str, Any] = {"model.onnx": model.SerializeToString(), "report.json": b'{"passed": true}'}
            made[role] = Bundle.open(write_bundle(folder / f"part-{role}.dsr", manifest, contents))
    outer = Bundle.open(pipeline_bundle(folder))
    return Bundle(outer.path, outer.manifest, made)
