"""`Subject`: a loaded model with everything an export needs to know; `SubjectCard`: the same without the module.

`ExportSubject` is what the stages ask of it, since a model need not come as a PyTorch module.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from dsr_export.errors import ExportError
from dsr_export.example_rows.drawn import Draw as Draw
from dsr_export.example_rows.drawn import draw_inputs
from dsr_export.sampling import SamplerSpec
from dsr_export.spec import DsrSpec
from graphs.artifacts import TensorSpec, TracedModel

if TYPE_CHECKING:
    from torch import nn

    from dsr_export.backends.base import Runner
    from dsr_export.config import BatchRange

Array = npt.NDArray[Any]
LARGE = 100_000_000  # parameters
TIMES = ("t", "timestep")  # what a denoiser calls the time, here and in diffusers


@dataclass(frozen=True, kw_only=True)
class Described:
    """What is said of a model wherever it comes from, loaded or traced.

    `sampler` is None for models that are not denoisers. `config` holds constructor arguments (JSON values);
    `provenance` where the weights came from: `checkpoint_sha256` and `weights` (file, entry, wrappers), or
    `random_seed`. `fp32_modules` are module paths that no precision touches; `outer_modules`, embedders and final
    layers, those that are not quantised, and stay FP32 only where they take sines. `batch_limits` are the smallest and
    largest batch that the model takes (None: no bound). `grid` are the frames, rows and columns of the image's tokens,
    where the family knows them; `text_rows` the first row and the number of the prompt's tokens in sequences that join
    both, registers left out.
    """

    name: str
    family: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    sampler: SamplerSpec | None = None
    num_classes: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    fp32_modules: tuple[str, ...] = ()
    outer_modules: tuple[str, ...] = ()
    batch_limits: tuple[int, int | None] = (1, None)
    grid: tuple[int, int, int] | None = None
    text_rows: tuple[int, int] | None = None

    def described(self) -> dict[str, Any]:
        """These fields by name, of whatever else they are part."""
        return {each.name: getattr(self, each.name) for each in dataclasses.fields(Described)}


@dataclass(frozen=True, kw_only=True)
class SubjectCard(Described):
    """What is known of a model once it is traced; plain values, so that later stages need no torch.

    `sites` counts the symbolic ops the traced graph must hold; `batch_reason` is the line of code that sets the
    batch limits.
    """

    dsr: dict[str, Any]
    sites: dict[str, int]
    parameters: int
    batch_reason: str = ""

    @property
    def is_large(self) -> bool:
        """Whether walking the model over its whole sampler would take a CPU an hour."""
        return self.parameters > LARGE

    def check_batch(self, batch: BatchRange) -> None:
        """Raises `ExportError` where `batch` asks for sizes that the model does not take."""
        low, high = self.batch_limits
        if low <= batch.min and (high is None or batch.max <= high):
            return
        takes = f"of {low} only" if low == high else f"from {low}" + ("" if high is None else f" to {high}")
        least = min(max(batch.min, low), high or max(batch.min, low))
        most = max(least, min(batch.max, high or batch.max))
        opt = min(max(batch.opt, least), most)
        reason = f" ({self.batch_reason})" if self.batch_reason else ""
        again = "take that condition out of the code" if reason else "export the model again with a free batch axis"
        raise ExportError(
            f"{self.name} takes batches {takes}{reason}, and {batch.min} to {batch.max} are asked for",
            hint=f"give --batch {least},{opt},{most}, or {again}",
        )

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> SubjectCard:
        values = json.loads(path.read_text(encoding="utf-8"))
        for key in ("inputs", "outputs"):
            values[key] = tuple(TensorSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in values[key])
        values["sampler"] = None if values["sampler"] is None else SamplerSpec(**values["sampler"])
        for key in ("fp32_modules", "outer_modules", "batch_limits"):
            values[key] = tuple(values[key])
        for key in ("grid", "text_rows"):
            values[key] = None if values[key] is None else tuple(values[key])
        return cls(**values)


def times_of(values: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float64] | None:
    """The time [n] of each row of the inputs `values` (of one with a time a token, the first's); None: no time."""
    found = next((values[name] for name in TIMES if name in values), None)
    return None if found is None else np.asarray(found, np.float64).reshape(len(found), -1)[:, 0]


def prompt_mask(inputs: Sequence[TensorSpec]) -> str | None:
    """The input that says which of a prompt's tokens are padding, by its name and form; None where there is none."""
    return next((spec.name for spec in inputs if "mask" in spec.name and len(spec.shape) == 2), None)


class ExportSubject(Protocol):
    """A loaded model as the stages see it."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def num_classes(self) -> int: ...

    @property
    def given(self) -> Mapping[str, Array]:
        """The rows that came with the model [n, ...], by input; nothing where none did."""
        ...

    @property
    def special_rows(self) -> bool:
        """Whether rows of zeros, masked ones and their like are tried as well."""
        ...

    def card(self) -> SubjectCard:
        """What later stages need to know of the model."""
        ...

    def trace(self, path: Path) -> TracedModel:
        """Writes the graph with symbolic `dsr` ops to `path`."""
        ...

    def reference(self) -> Runner:
        """What parity compares with, in FP32."""
        ...

    def example(self, batch: int, *, seed: int) -> dict[str, Array]:
        """Seeded inputs by name; row i does not depend on `batch`."""
        ...

    def release(self) -> None:
        """Gives the weights' memory back; the subject is not used afterwards."""
        ...


@dataclass(frozen=True, kw_only=True)
class Subject(Described):
    """A PyTorch module (float32, eval mode, on the CPU) whose positional inputs are `inputs`, in order.

    `draws` says by input name how examples are drawn where the general rule does not fit: times in [0, 1000], masks.
    `given` are example rows [n, ...] by input name, tested as they are; an input without a draw is one of them.
    `special_rows`: zeros, masked rows and their like are tried too: nobody here knows what the model is fed.
    `sites_override` counts the symbolic ops where `dsr` does not declare them: in a module of the user's own.
    The other fields are those of `Described`.
    """

    module: nn.Module
    dsr: DsrSpec
    draws: Mapping[str, Draw] = field(default_factory=dict)
    given: Mapping[str, Array] = field(default_factory=dict, repr=False)
    special_rows: bool = False
    sites_override: Mapping[str, int] | None = None

    @property
    def sites(self) -> dict[str, int]:
        """Symbolic op type -> number of nodes the traced graph must hold."""
        return self.dsr.sites() if self.sites_override is None else dict(self.sites_override)

    def card(self) -> SubjectCard:
        """Everything but the module."""
        parameters = sum(p.numel() for p in self.module.parameters())
        return SubjectCard(**self.described(), dsr=self.dsr.as_dict(), sites=self.sites, parameters=parameters)

    def trace(self, path: Path) -> TracedModel:
        """Writes the graph with symbolic `dsr` ops to `path`."""
        from dsr_export.tracing.trace import trace

        return trace(self, path)

    def reference(self) -> Runner:
        """What parity compares with: the FP32 PyTorch module."""
        from dsr_export.subjects.torch_runner import TorchRunner

        return TorchRunner(self)

    def release(self) -> None:
        """Gives the weights' memory back; dropping the module is not enough, as the exporter keeps its parameters."""
        for weight in (*self.module.parameters(), *self.module.buffers()):
            weight.data = weight.new_empty(0)

    def example(self, batch: int, *, seed: int) -> dict[str, Array]:
        """Seeded inputs, drawn as `draw_inputs` says. Rows do not depend on `batch`."""
        return draw_inputs(
            self.inputs, batch, seed=seed, num_classes=self.num_classes, draws=self.draws, given=self.given
        )


def require_module(subject: ExportSubject) -> Subject:
    """`subject` as one with a PyTorch module; `ExportError` where it came from an ONNX file."""
    if isinstance(subject, Subject):
        return subject
    raise ExportError(f"{subject.card().name} is no PyTorch module", hint="name a model, a module:callable or a .pt2")
