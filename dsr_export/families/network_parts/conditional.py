"""A class-conditional denoiser with diffusion registers, as a `Subject`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from dsr_export.example_rows.drawn import Draw
from dsr_export.families.network_parts.replacements import apply_replacements
from dsr_export.families.network_parts.trunk import Trunk, TrunkConfig
from dsr_export.sampling import SamplerSpec
from dsr_export.spec import DenoiserSpec, DsrSpec, ReplaceSpec
from dsr_export.subject import Subject
from graphs.artifacts import TensorSpec


def conditional_subject(
    name: str,
    module: Trunk,
    *,
    replace: Sequence[ReplaceSpec],
    sampler: SamplerSpec,
    provenance: Mapping[str, Any],
    draws: Mapping[str, Draw] | None = None,
) -> Subject:
    """`x [batch, C, H, W]`, `t [batch]`, `y [batch] int64` -> `out [batch, out_channels, H, W]`.

    Applies the groups in `replace`; raises ExportError where they do not fit the model.
    """
    trunk = module.trunk
    apply_replacements(module, replace, stream=trunk)
    side = trunk.input_size
    return Subject(
        name=name,
        family=module.FAMILY,
        module=module.eval().requires_grad_(False),
        inputs=(
            TensorSpec(name="x", dtype="float32", shape=("batch", trunk.in_channels, side, side)),
            TensorSpec(name="t", dtype="float32", shape=("batch",)),
            TensorSpec(name="y", dtype="int64", shape=("batch",)),
        ),
        outputs=(TensorSpec(name="out", dtype="float32", shape=("batch", module.out_channels, side, side)),),
        dsr=DsrSpec(denoiser=_denoiser(trunk, tuple(replace))),
        sampler=sampler,
        num_classes=trunk.num_classes,
        config=dataclasses.asdict(module.config),
        provenance=dict(provenance),
        outer_modules=module.OUTER_MODULES,
        draws=draws or {},
    )


def _denoiser(trunk: TrunkConfig, replace: tuple[ReplaceSpec, ...]) -> DenoiserSpec:
    if not trunk.register_conditioning:
        return DenoiserSpec(kind="none", replace=replace)
    return DenoiserSpec(kind="diffusion", registers=trunk.register_len, start=trunk.register_start, replace=replace)
