"""A card of a small denoiser, for tests of what feeds it: no model stands behind it."""

from __future__ import annotations

from typing import Any

from dsr_export.sampling import SamplerSpec
from dsr_export.subject import SubjectCard
from graphs.artifacts import TensorSpec

SHAPE = (2, 4, 4)
SAMPLER = SamplerSpec(num_steps=4, null_label=10)


def card(**changes: Any) -> SubjectCard:
    """`x [batch, 2, 4, 4]`, `t [batch]`, `y [batch] int64` -> `out`, ten classes."""
    image = ("batch", *SHAPE)
    fields: dict[str, Any] = {
        "name": "tiny",
        "family": "rae-dit",
        "inputs": (
            TensorSpec(name="x", dtype="float32", shape=image),
            TensorSpec(name="t", dtype="float32", shape=("batch",)),
            TensorSpec(name="y", dtype="int64", shape=("batch",)),
        ),
        "outputs": (TensorSpec(name="out", dtype="float32", shape=image),),
        "dsr": {"encoder": {"kind": "none"}, "denoiser": {"kind": "none", "registers": 0}},
        "sites": {},
        "sampler": SAMPLER,
        "num_classes": 10,
        "parameters": 1000,
        "config": {},
        "provenance": {},
        "fp32_modules": (),
        "outer_modules": (),
    }
    return SubjectCard(**{**fields, **changes})
