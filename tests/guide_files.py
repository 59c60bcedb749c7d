"""The files of their own that readers of a guide have already: tiny ones, under the names that the guide gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tests.pipelines.tiny_pipelines import tiny_pipeline

LORA_RANK = 2


def pipeline_and_lora(folder: Path) -> None:
    """`my-pipeline`, as diffusers saves it, and `style.safetensors` for its transformer."""
    import torch
    from safetensors.torch import save_file

    pipe = tiny_pipeline("pixart-sigma", folder / "made")
    (folder / "made" / "pipe").rename(folder / "my-pipeline")
    name = "transformer_blocks.0.attn1.to_q"
    wide = pipe.transformer.get_submodule(name).weight.shape[1]
    lora = {"lora_A": torch.ones(LORA_RANK, wide) / wide, "lora_B": torch.ones(wide, LORA_RANK) / wide}
    save_file({f"transformer.{name}.{key}.weight": value for key, value in lora.items()}, folder / "style.safetensors")


BROUGHT: Mapping[str, Callable[[Path], None]] = {"from-diffusers": pipeline_and_lora}
"""Guide -> what makes them."""
