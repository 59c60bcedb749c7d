"""Golden vectors: seeded inputs and what the FP32 reference makes of them, so that any device can check a bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.backends.base import RoundsOtherwise, Runner, as_denoiser
from dsr_export.config import BatchRange
from dsr_export.errors import ExportError
from dsr_export.parity.batch_calls import Infer, in_batches, remembered
from dsr_export.parity.golden.special_rows import settled_rows, special_rows
from dsr_export.sampling import SamplerSpec, seeded_noise, trajectory
from dsr_export.subject import ExportSubject

Array = npt.NDArray[Any]
SEED = 20_260_505
DRAWN = 4  # rows that show what is a mask
PYTORCH = "torch-fp32"
GIVEN, WALKED, SPECIAL = FURTHER = ("given", "walk", "special")
OWN = (GIVEN, WALKED)  # what the model is made for
MOST_ROWS = 64
"""Of those that came with a model: more are a data set, not an example."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Case:
    """One reference call: inputs by name, outputs by name, batch first."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]

    @property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values())))


@dataclass(frozen=True)
class ReferenceTrajectory:
    """A seeded sampling run: noise [n, C, H, W], labels [n], and the state after each step [steps, n, C, H, W]."""

    noise: Array
    labels: Array
    states: Array


@dataclass(frozen=True)
class Golden:
    """Everything a bundle is checked against. `cases` by batch size; `reference` says what made them.

    `further` holds rows of any number, to be run in batches: the first `MOST_ROWS` that came with the model (`given`),
    some of its pipeline's own walk (`walk`), and those that random draws do not make (`special`); bundles before 0.2
    have none. `tried` counts the last two with those that were left out; only the build knows it.
    """

    cases: Mapping[int, Case]
    trajectory: ReferenceTrajectory | None
    reference: str = PYTORCH
    further: Mapping[str, Case] = field(default_factory=dict)
    tried: int = 0

    @property
    def left_out(self) -> int:
        """How many of the rows that were tried the reference has no answer for, or no steady one."""
        return self.tried - sum(self.further[name].rows for name in (WALKED, SPECIAL) if name in self.further)

    @property
    def batch(self) -> BatchRange:
        """From the smallest to the largest batch that there is a case of."""
        low, high = min(self.cases), max(self.cases)
        return BatchRange(low, low, high)

    def save(self, path: Path) -> None:
        """Writes one compressed npz, the same bytes for the same values."""
        named = {f"batch{size}": case for size, case in self.cases.items()} | dict(self.further)
        arrays = {f"{name}/in/{k}": v for name, case in named.items() for k, v in case.inputs.items()}
        arrays |= {f"{name}/out/{k}": v for name, case in named.items() for k, v in case.outputs.items()}
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
        cases = {size: _case(arrays, f"batch{size}") for size in sizes}
        further = {name: _case(arrays, name) for name in FURTHER if any(key.startswith(f"{name}/") for key in arrays)}
        walk = _under(arrays, "trajectory/")
        made = arrays["reference"].tobytes().decode(errors="replace") if "reference" in arrays else PYTORCH
        states = ReferenceTrajectory(walk["noise"], walk["labels"], walk["states"]) if walk else None
        return cls(cases, states, made, further)


def make_golden(
    subject: ExportSubject,
    reference: Runner,
    *,
    batch: BatchRange,
    sampler: SamplerSpec | None,
    progress: Progress,
    walked: Mapping[str, Array] | None = None,
) -> Golden:
    """Runs the reference at each batch size and, for a denoiser, over a whole trajectory of `sampler`.

    `walked` are rows [n, ...] by input that the model's pipeline gives it.
    """
    cases: dict[int, Case] = {}
    infer = remembered(reference.infer)
    for size in batch.sizes():
        inputs = subject.example(size, seed=SEED)
        cases[size] = Case(inputs, infer(inputs))
    walk = None if sampler is None else _walk(subject, reference, sampler, batch, progress)
    known, own = _known(subject, infer, batch)
    tried = 0
    if walked:
        own[WALKED] = _walked(reference, infer, walked, batch)
        tried += _count(walked)
    if not subject.special_rows:
        return Golden(cases, walk, f"{reference.name}-fp32", own, tried=tried)
    replaces = any(subject.card().sites.values())  # which of equal tokens stands out is a matter of rounding
    rows = special_rows(known, empty=not replaces)
    special = _settled(reference, infer, rows, batch)
    further = own | ({SPECIAL: special} if special.inputs else {})
    return Golden(cases, walk, f"{reference.name}-fp32", further, tried=tried + _count(rows))


def _known(subject: ExportSubject, infer: Infer, batch: BatchRange) -> tuple[Mapping[str, Array], dict[str, Case]]:
    """Rows that special ones are made of: those that came with the subject, if any did, and drawn ones.

    With them, the case of the former.
    """
    known = subject.example(DRAWN, seed=SEED)
    if not subject.given:
        return known, {}
    given = {name: subject.given[name][:MOST_ROWS] for name in known}
    both = {name: np.concatenate([given[name], values]) for name, values in known.items()}
    return both, {GIVEN: Case(given, in_batches(infer, given, batch))}


def _settled(reference: Runner, infer: Infer, rows: Mapping[str, Array], batch: BatchRange) -> Case:
    """Those of `rows` that the reference has a steady answer for, and the answer; `infer` is how it is asked."""

    def of(one: Infer) -> Infer:
        return lambda inputs: in_batches(one, inputs, batch)

    otherwise = remembered(reference.infer_otherwise) if isinstance(reference, RoundsOtherwise) else None
    return Case(*settled_rows(of(infer), rows, otherwise and of(otherwise)))


def _walked(reference: Runner, infer: Infer, rows: Mapping[str, Array], batch: BatchRange) -> Case:
    """Those of a walk, whose steps drive a model of random weights far out; all of them where it is steady in none."""
    settled = _settled(reference, infer, rows, batch)
    return settled if settled.inputs else Case(rows, in_batches(infer, rows, batch))


def _count(rows: Mapping[str, Array]) -> int:
    return len(next(iter(rows.values())))


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


def image_batch(batch: BatchRange, sampler: SamplerSpec) -> BatchRange:
    """How many images at once make batches that `batch` holds: under guidance each is two rows.

    Raises:
        ExportError: no whole number of images does.
    """
    rows = 2 if sampler.guidance != 1.0 else 1
    least, most = -(-batch.min // rows), batch.max // rows
    if least > most:
        raise ExportError(f"no number of images makes a batch of {batch.max} under guidance", hint="give an even one")
    return BatchRange(least, min(max(batch.opt // rows, least), most), most)


def trajectory_images(batch: BatchRange, sampler: SamplerSpec) -> int:
    """How many images a walk takes: four are enough to see a drift, unless the smallest batch asks for more."""
    rows = 2 if sampler.guidance != 1.0 else 1
    return min(batch.max // rows, max(4, -(-batch.min // rows)))


def _case(arrays: Mapping[str, Array], name: str) -> Case:
    return Case(_under(arrays, f"{name}/in/"), _under(arrays, f"{name}/out/"))


def _under(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {key[len(prefix) :]: value for key, value in arrays.items() if key.startswith(prefix)}
