"""Bundles in diffusers' pipelines: `from dsr_export.diffusers import attach`."""

from __future__ import annotations

from dsr_export.diffusers.attaching import attach as attach
from dsr_export.diffusers.autoencoder import AttachedAutoencoder as AttachedAutoencoder
from dsr_export.diffusers.part import AttachedPart as AttachedPart
from dsr_export.diffusers.text_encoder import AttachedTextEncoder as AttachedTextEncoder
from dsr_export.diffusers.transformer import AttachedTransformer as AttachedTransformer

__all__ = ["AttachedAutoencoder", "AttachedPart", "AttachedTextEncoder", "AttachedTransformer", "attach"]
