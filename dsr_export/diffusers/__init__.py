"""Bundles in diffusers' pipelines: `from dsr_export.diffusers import attach`."""

from __future__ import annotations

from dsr_export.diffusers.attached import AttachedTransformer as AttachedTransformer
from dsr_export.diffusers.attached import attach as attach

__all__ = ["AttachedTransformer", "attach"]
