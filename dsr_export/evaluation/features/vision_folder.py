"""Features of an image encoder in a `transformers` folder: DINOv2 for FD-DINOv2, CLIP, SigLIP, or another.

The features are what the model itself pools, for DINOv2 the class token behind its last norm, as in FD-DINOv2
(G. Stein et al., Exposing flaws of generative model evaluation metrics, 2023).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dsr_export.errors import ExportError
from dsr_export.evaluation.features.extractor import Extracted
from dsr_export.evaluation.features.processed import Processing
from dsr_export.families.digests import folder_sha256
from dsr_export.families.transformers_package import absent_names, first_line, quiet, refusals, transformers_package

Array = npt.NDArray[Any]


class VisionFolder:
    """The pooled output [n, D] of a folder's image encoder."""

    name = "encoder"

    def __init__(self, folder: Path) -> None:
        """Raises ExportError for a folder that holds no image encoder, or not all of its weights."""
        self.digest = folder_sha256(folder)
        self._network = pretrained(folder)
        self._network = getattr(self._network, "vision_model", self._network)
        self._processing = Processing.of(folder, self._network.config)
        self.width = self._width(folder)

    @torch.inference_mode()
    def __call__(self, pictures: Array) -> Extracted:
        """Of pictures [n, H, W, 1 or 3] uint8 of any size."""
        return Extracted(np.asarray(self._pooled(pictures)))

    @torch.inference_mode()
    def _width(self, folder: Path) -> int:
        """Tried out: configurations of convolutional encoders have no one name for it, and other models see nothing."""
        try:
            return int(self._pooled(np.zeros((1, 8, 8, 3), np.uint8)).shape[1])
        except refusals() as error:
            name = type(self._network).__name__
            raise ExportError(
                f"{folder} holds {name}, which makes no features of a picture: {first_line(error)}",
                hint="give the folder of an image encoder, such as DINOv2, CLIP or SigLIP",
            ) from error

    def _pooled(self, pictures: Array) -> torch.Tensor:
        """[n, D]; a convolutional encoder pools [n, D, 1, 1]."""
        made = self._network(pixel_values=self._processing(pictures).float())
        pooled: torch.Tensor | None = getattr(made, "pooler_output", None)
        return made.last_hidden_state.mean(dim=1) if pooled is None else pooled.flatten(1)


def pretrained(folder: Path) -> Any:
    """The model in a folder, float32, in evaluation mode, with its pooling. ExportError where it can't be loaded."""
    if not (folder / "config.json").is_file():
        raise ExportError(f"{folder} holds no config.json", hint="give the folder of a transformers model")
    transformers = transformers_package("features")
    try:
        with quiet(transformers):
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            loader = transformers.MODEL_MAPPING[type(config)]
            model, info = loader.from_pretrained(
                folder, config=config, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except refusals() as error:
        hint = "give a whole folder, with safetensors, of a model that transformers itself holds"
        raise ExportError(f"{folder} can't be loaded: {first_line(error)}", hint=hint) from error
    absent = absent_names(info)
    if absent and all(name.startswith("pooler.") for name in absent):
        raise ExportError(
            f"{folder} was saved without its pooling '{absent[0]}', and features are what it pools",
            hint="give an encoder that was trained with one, such as DINOv2, CLIP or SigLIP",
        )
    if absent:
        raise ExportError(f"{folder} lacks {len(absent)} weights, such as {absent[0]}", hint="download it again")
    return model.float().eval()
