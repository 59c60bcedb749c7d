"""Golden vectors: seeded inputs and what the FP32 reference makes of them, so that any device can check a bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.backends.base import Runner, as_denoiser
from dsr_export.config import BatchRange
from dsr_export.sampling import SamplerSpec, seeded_noise, trajectory
from dsr_export.subject import ExportSubject

Array = npt.NDArray[Any]
SEED = 20_260_505
PYTORCH = "torch-fp32"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Case:
    """One reference call: inputs by name, outputs by name, batch first."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]


@dataclass(frozen=True)
class ReferenceTrajectory:
    """A seeded sampling run: noise [n, C, H, W], labels [n], and the state after each step [steps, n, C, H, W]."""

    noise: Array
    labels: Array
    states: Array


@dataclass(frozen=True)
class Golden:
    """Everything a bundle is checked against. `cases` by batch size; `reference` says what made them."""

    cases: Mapping[int, Case]
    trajectory: ReferenceTrajectory | None
    reference: str = PYTORCH

    def save(self, path: Path) -> None:
        """Writes one compressed npz, the same bytes for the same values."""
        arrays = {f"batch{b}/in/{k}": v for b, case in self.cases.items() for k, v in case.inputs.items()}
        arrays |= {f"batch{b}/out/{k}": v for b, case in self.cases.items() for k, v in case.outputs.items()}
        if self.trajectory is not None:
            walk = self.trajectory
            arrays |= {"trajectory/noise": walk.noise, "trajectory/labels": walk.labels}
            arrays |= {"trajectory/states": walk.states}
        if self.reference != PYTORCH:
            arrays["reference"] = np.frombuffer(self.reference.encode(), np.uint8)  # readers take numbers only
        with path.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Golden:
        sizes = sorted({int(key.split("/")[0][5:]) for key in arrays if key.startswith("batch")})
        cases = {b: Case(_under(arrays, f"batch{b}/in/"), _under(arrays, f"batch{b}/out/")) for b in sizes}
        walk = _under(arrays, "trajectory/")
        made = arrays["reference"].tobytes().decode(errors="replace") if "reference" in arrays else PYTORCH
        return cls(cases, ReferenceTrajectory(walk["noise"], walk["labels"], walk["states"]) if walk else None, made)


def make_golden(
    subject: ExportSubject, reference: Runner, *, batch: BatchRange, sampler: SamplerSpec | None, progress: Progress
) -> Golden:
    """Runs the reference at each batch size and, for a denoiser, over a whole trajectory of `sampler`."""
    cases: dict[int, Case] = {}
    for size in batch.sizes():
        inputs = subject.example(size, seed=SEED)
        cases[size] = Case(inputs, reference.infer(inputs))
    walk = None if sampler is None else _walk(subject, reference, sampler, batch, progress)
    return Golden(cases, walk, f"{reference.name}-fp32")


def _walk(
    subject: ExportSubject, reference: Runner, sampler: SamplerSpec, batch: BatchRange, progress: Progress
) -> ReferenceTrajectory:
    count = trajectory_images(batch, sampler)
    noise = seeded_noise(SEED, count, subject.inputs[0].with_batch(1)[1:])
    labels = np.arange(count, dtype=np.int64) % max(subject.num_classes, 1)
    states = []
    for step in trajectory(as_denoiser(reference), sampler, noise, labels):
        states.append(step.state)
        progress(step.index + 1, sampler.num_steps - 1)
    return ReferenceTrajectory(noise, labels, np.stack(states))


def fitted_sampler(sampler: SamplerSpec, batch: BatchRange) -> SamplerSpec:
    """Guidance doubles the batch; where even one image would not fit, the walk goes without."""
    return sampler if batch.max >= 2 else replace(sampler, guidance=1.0)


def trajectory_images(batch: BatchRange, sampler: SamplerSpec) -> int:
    """How many images a walk takes: four are enough to see a drift, unless the smallest batch asks for more."""
    rows = 2 if sampler.guidance != 1.0 else 1
    return min(batch.max // rows, max(4, -(-batch.min // rows)))


def _under(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {key[len(prefix) :]: value for key, value in arrays.items() if key.startswith(prefix)}
