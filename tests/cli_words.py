"""Words of the command line for the smallest model there is to build."""

from __future__ import annotations

from tests.pipeline_parts import DENOISER

SIZES = tuple(word for name, value in DENOISER.items() for word in ("--option", f"{name}={value}"))
TINY = (
    "rae-dit",
    "--random-weights",
    "0",
    *SIZES,
    "--target",
    "onnxruntime",
    "--batch",
    "1,2,2",
    "--precision",
    "fp32",
)
