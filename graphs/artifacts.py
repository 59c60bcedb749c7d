"""Frozen types of what stages hand on. A stage takes one type and returns the next, so an un-rewritten model
cannot reach a builder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graphs.digests import files_digest
from graphs.precisions import Precision


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """A graph input or output. `shape` holds ints, and names for dynamic axes (`"batch"`)."""

    name: str
    dtype: str  # a numpy name: "float32", "int64"
    shape: tuple[int | str, ...]

    def with_batch(self, batch: int) -> tuple[int, ...]:
        """The concrete shape at `batch`."""
        return tuple(batch if isinstance(dim, str) else dim for dim in self.shape)


@dataclass(frozen=True, kw_only=True)
class OnnxArtifact:
    """An ONNX file of one stage; weights may lie beside it in `<name>.data`."""

    path: Path

    @property
    def digest(self) -> str:
        """sha256 over the model and its external data."""
        return files_digest([self.path, *sorted(self.path.parent.glob(self.path.name + ".data"))])


@dataclass(frozen=True, kw_only=True)
class TracedModel(OnnxArtifact):
    """`dsr` ops still symbolic. `sites` counts the nodes each op must have: op type -> count.

    `batch_limits` are the sizes it is right for (None: no bound), `batch_reason` the line of code that sets them.
    """

    sites: Mapping[str, int]
    batch_limits: tuple[int, int | None] = (1, None)
    batch_reason: str = ""


@dataclass(frozen=True, kw_only=True)
class LoweredModel(OnnxArtifact):
    """Standard ops only."""


@dataclass(frozen=True, kw_only=True)
class OptimizedModel(OnnxArtifact):
    """Folded and fused; the same numbers as the lowered model."""


@dataclass(frozen=True, kw_only=True)
class CalibratedModel(OptimizedModel):
    """Channel factors folded into weights, where INT8 gains by it: the same numbers, to FP32 rounding."""


@dataclass(frozen=True, kw_only=True)
class QuantizedModel(OnnxArtifact):
    """Chosen GEMMs between QuantizeLinear and DequantizeLinear: other numbers than the optimised model's."""


@dataclass(frozen=True, kw_only=True)
class TypedModel(OnnxArtifact):
    """Precision written into the graph: what ships and what engines are built from."""

    precision: Precision
