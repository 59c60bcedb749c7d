"""Inception-v3 as FID and IS are defined with it, through the package torch-fidelity, from a local weight file."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dsr_export.checkpoints.safe_reading import read_file
from dsr_export.errors import ExportError
from dsr_export.evaluation.features.extractor import Extracted, as_rgb, as_tensor
from dsr_export.families.digests import file_sha256
from dsr_export.storage.leftovers import scratch_folder

Array = npt.NDArray[Any]
_FEATURES = ["2048", "logits_unbiased"]
_FILE = "pt_inception-2015-12-05-6726825d.pth of torch-fidelity's releases"


class Inception:
    """The TensorFlow network of 2015 as torch-fidelity ports it: 2,048 features, 1,008 logits without a bias."""

    name, width = "inception-v3", 2048

    def __init__(self, path: Path) -> None:
        """Raises ExportError where the file is none of its weights, or torch-fidelity is missing."""
        package = _package()
        content, _ = read_file(path)
        self.digest = file_sha256(path)
        with scratch_folder("inception") as folder:  # the package would unpickle whatever is in the file
            torch.save(content, folder / "weights.pth")
            try:
                self._network = package.FeatureExtractorInceptionV3(
                    "inception-v3-compat", _FEATURES, feature_extractor_weights_path=str(folder / "weights.pth")
                )
            except (RuntimeError, TypeError, AttributeError) as error:
                raise ExportError(f"{path} does not hold the weights of Inception-v3", hint=f"take {_FILE}") from error

    @torch.inference_mode()
    def __call__(self, pictures: Array) -> Extracted:
        """Of pictures [n, H, W, 1 or 3] uint8 of any size."""
        features, logits = self._network(as_tensor(as_rgb(pictures)))
        return Extracted(np.asarray(features), np.asarray(logits))


def _package() -> Any:
    try:
        return importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    except ImportError as error:
        raise ExportError(
            f"Inception's features need the package torch-fidelity: {error}", hint="pip install torch-fidelity"
        ) from error
