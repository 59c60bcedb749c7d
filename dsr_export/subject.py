"""`Subject`: a loaded model with everything an export needs to know; `SubjectCard`: the same without the module."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dsr_export.sampling import SamplerSpec
from dsr_export.spec import DsrSpec
from graphs.artifacts import TensorSpec, TracedModel

if TYPE_CHECKING:
    from torch import nn

    from dsr_export.backends.base import Runner

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class SubjectCard:
    """What is known of a model once it is traced; plain values, so that later stages need no torch.

    `sampler` is None for models that are not denoisers. `config` holds constructor arguments (JSON values);
    `provenance` where the weights came from: `checkpoint_sha256`, or `random_seed`. `fp32_modules` are module paths
    that no precision touches. `sites` counts the symbolic ops the traced graph must hold.
    """

    name: str
    family: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dsr: dict[str, Any]
    sites: dict[str, int]
    sampler: SamplerSpec | None
    num_classes: int
    parameters: int
    config: dict[str, Any]
    provenance: dict[str, Any]
    fp32_modules: tuple[str, ...]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True))

    @classmethod
    def load(cls, path: Path) -> SubjectCard:
        values = json.loads(path.read_text())
        for key in ("inputs", "outputs"):
            values[key] = tuple(TensorSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in values[key])
        values["sampler"] = None if values["sampler"] is None else SamplerSpec(**values["sampler"])
        values["fp32_modules"] = tuple(values["fp32_modules"])
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A PyTorch module (float32, eval mode, on the CPU) whose positional inputs are `inputs`, in order.

    The other fields are those of `SubjectCard`.
    """

    name: str
    family: str
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dsr: DsrSpec
    sampler: SamplerSpec | None = None
    num_classes: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    fp32_modules: tuple[str, ...] = ()

    def card(self) -> SubjectCard:
        """Everything but the module."""
        return SubjectCard(
            name=self.name,
            family=self.family,
            inputs=self.inputs,
            outputs=self.outputs,
            dsr=self.dsr.as_dict(),
            sites=self.dsr.sites(),
            sampler=self.sampler,
            num_classes=self.num_classes,
            parameters=sum(p.numel() for p in self.module.parameters()),
            config=self.config,
            provenance=self.provenance,
            fp32_modules=self.fp32_modules,
        )

    def trace(self, path: Path) -> TracedModel:
        """Writes the graph with symbolic `dsr` ops to `path`."""
        from dsr_export.tracing import trace

        return trace(self, path)

    def reference(self) -> Runner:
        """What parity compares with: the FP32 PyTorch module."""
        from dsr_export.backends.torch import TorchRunner

        return TorchRunner(self)

    def example(self, batch: int, *, seed: int) -> dict[str, Array]:
        """Seeded inputs: normal `x`, uniform `t`, random labels. Row i does not depend on `batch`."""
        rows = [self._row(np.random.default_rng([seed, i])) for i in range(batch)]
        return {spec.name: np.stack([row[spec.name] for row in rows]) for spec in self.inputs}

    def _row(self, rng: np.random.Generator) -> dict[str, Array]:
        row: dict[str, Array] = {}
        for spec in self.inputs:
            shape = spec.with_batch(1)[1:]
            if spec.dtype == "int64":
                row[spec.name] = np.asarray(rng.integers(0, max(self.num_classes, 1), shape), np.int64)
            elif spec.name == "t":
                row[spec.name] = np.asarray(rng.uniform(0.02, 1.0, shape), np.float32)
            else:
                row[spec.name] = np.asarray(rng.standard_normal(shape), np.float32)
        return row
