"""The diffusers classes that have an adapter: a new one is its adapter, and one entry here. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SupportedClass:
    """`name` is what a model of free sizes is registered as, `adapter` is `module:class`.

    `legacy_norm` is the norm type that told the class from others before diffusers 0.29, where there was one for all.
    """

    name: str
    class_name: str
    adapter: str
    legacy_norm: str | None = None


_HERE = "dsr_export.families.diffusers"
SUPPORTED = (
    SupportedClass(name="sd3", class_name="SD3Transformer2DModel", adapter=f"{_HERE}.sd3:SD3Denoiser"),
    SupportedClass(
        name="flux",
        class_name="FluxTransformer2DModel",
        adapter=f"{_HERE}.flux:FluxDenoiser",
    ),
    SupportedClass(
        name="pixart",
        class_name="PixArtTransformer2DModel",
        adapter=f"{_HERE}.pixart:PixArtDenoiser",
        legacy_norm="ada_norm_single",
    ),
    SupportedClass(
        name="diffusers-dit",
        class_name="DiTTransformer2DModel",
        adapter=f"{_HERE}.dit:DiTDenoiser",
        legacy_norm="ada_norm_zero",
    ),
)
