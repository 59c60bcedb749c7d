"""How well a picture fits its prompt: 100 times the cosine of CLIP's two embeddings, at least 0.

As torchmetrics defines it, after J. Hessel et al. (CLIPScore, 2021), who scale by 2.5 instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dsr_export.errors import ExportError
from dsr_export.evaluation.features.processed import Processing
from dsr_export.evaluation.features.vision_folder import pretrained
from dsr_export.families.digests import file_sha256, folder_sha256
from dsr_export.prompts import PromptTokenizer
from dsr_export.prompts.vocabularies import MERGES, PIECES
from dsr_export.storage.canonical import canonical_digest

Array = npt.NDArray[Any]


class ClipScore:
    """CLIP in a `transformers` folder, with its tokenizer."""

    def __init__(self, folder: Path) -> None:
        """Raises ExportError for a folder that holds no whole CLIP, or no tokenizer."""
        self.digest = _digest(folder)
        self._model = pretrained(folder).double()
        if not hasattr(self._model, "text_projection") or not hasattr(self._model, "visual_projection"):
            raise ExportError(
                f"{folder} holds {type(self._model).__name__}, and the score needs CLIP",
                hint="give the folder of a CLIPModel, such as openai/clip-vit-base-patch16",
            )
        self._processing = Processing.of(folder, self._model.config.vision_config)
        self._tokenizer = PromptTokenizer.from_folder(folder)

    @torch.inference_mode()
    def __call__(self, pictures: Array, prompts: Sequence[str]) -> Array:
        """Of pictures [n, H, W, 1 or 3] uint8 and their n prompts: [n] float64, 0 to 100.

        Prompts are cut at what CLIP reads, 77 tokens. In float64: a cosine near 0 is a small sum of large products, and
        float32 leaves five digits of it.
        """
        longest = int(self._model.config.text_config.max_position_embeddings)
        tokens = self._tokenizer(list(prompts), length=longest)
        text = self._model.text_model(
            input_ids=torch.from_numpy(tokens.ids), attention_mask=torch.from_numpy(tokens.mask)
        )
        image = self._model.vision_model(pixel_values=self._processing(pictures))
        texts = self._model.text_projection(text.pooler_output)
        images = self._model.visual_projection(image.pooler_output)
        return np.asarray(100 * _cosine(images, texts).clamp(min=0))


def _digest(folder: Path) -> str:
    """Of the model's files, and of those of a tokenizer that are no JSON."""
    own = [file for name in (MERGES, *PIECES) if (file := folder / name).is_file()]
    return canonical_digest([folder_sha256(folder), *(file_sha256(file) for file in own)])


def _cosine(images: Tensor, texts: Tensor) -> Tensor:
    return torch.cosine_similarity(images.double(), texts.double(), dim=-1)
