"""A diffusers `DiTTransformer2DModel`'s tensors under the names of the released DiT.

Two things differ besides names, and follow the released DiT here: diffusers spaces the frequencies of the time
embedding by 1 / 127 instead of 1 / 128, and its second norm has the configured eps (1e-5 by default) instead of 1e-6.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dsr_export.checkpoints import StateDict
from dsr_export.errors import ExportError
from dsr_export.families.network_parts.embeddings import sincos_2d

_BLOCKS = "transformer_blocks."
_EMBEDDINGS = f"{_BLOCKS}0.norm1.emb"
_STEM = {
    "pos_embed.proj": "x_embedder.proj",
    f"{_EMBEDDINGS}.timestep_embedder.linear_1": "t_embedder.mlp.0",
    f"{_EMBEDDINGS}.timestep_embedder.linear_2": "t_embedder.mlp.2",
    f"{_EMBEDDINGS}.class_embedder.embedding_table": "y_embedder.embedding_table",
    "proj_out_1": "final_layer.adaLN_modulation.1",
    "proj_out_2": "final_layer.linear",
}
_BLOCK = {
    "norm1.linear": "adaLN_modulation.1",
    "attn1.to_out.0": "attn.proj",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
}


def is_diffusers(state: Mapping[str, Tensor]) -> bool:
    """Whether the tensors have diffusers' names."""
    return any(key.startswith(_BLOCKS) for key in state)


def dit_from_diffusers(state: Mapping[str, Tensor], input_size: int) -> StateDict:
    """The tensors of `dit` for those of a `DiTTransformer2DModel` with that `sample_size`.

    Raises ExportError where a tensor is missing, or where the blocks' embeddings of time and label, of which a
    converted DiT holds one copy per block, are not the same in all.
    """
    depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith(_BLOCKS))
    _check_embeddings(state, depth)
    try:
        made = _renamed(state, _STEM)
        for i in range(depth):
            made |= _renamed(state, {f"{_BLOCKS}{i}.{old}": f"blocks.{i}.{new}" for old, new in _BLOCK.items()})
            made |= _qkv(state, i)
    except KeyError as error:
        raise ExportError(f"the checkpoint is no DiTTransformer2DModel: it lacks {error}") from error
    dim, _, patch, _ = made["x_embedder.proj.weight"].shape
    return {**made, "pos_embed": sincos_2d(dim, input_size // patch)[None]}  # computed there, and not saved


def _renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> StateDict:
    made = {f"{new}.weight": state[f"{old}.weight"] for old, new in names.items()}
    biased = {new: f"{old}.bias" for old, new in names.items() if not old.endswith("embedding_table")}
    return made | {f"{new}.bias": state[old] for new, old in biased.items()}


def _qkv(state: Mapping[str, Tensor], i: int) -> StateDict:
    parts = [f"{_BLOCKS}{i}.attn1.to_{part}" for part in "qkv"]
    kinds = ("weight", "bias")
    return {f"blocks.{i}.attn.qkv.{kind}": torch.cat([state[f"{part}.{kind}"] for part in parts]) for kind in kinds}


def _check_embeddings(state: Mapping[str, Tensor], depth: int) -> None:
    for name in [key for key in state if key.startswith(_EMBEDDINGS)]:
        for i in range(1, depth):
            other = state.get(name.replace(".0.", f".{i}.", 1))
            if other is None or not torch.equal(state[name], other):
                raise ExportError(
                    f"block {i} has its own '{name.removeprefix(_EMBEDDINGS)[1:]}', and DiT has one for all blocks",
                    hint="only a converted DiT can be converted back",
                )
