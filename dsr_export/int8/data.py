"""Calibration data: the model's own trajectories, a user's inputs, or seeded random ones where asked for."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.collect import CalibrationData, Call, Progress
from calibration.sections import Sections
from dsr_export.declarations.int8_options import GIVE, TRAJECTORY, Int8Options
from dsr_export.errors import ExportError
from dsr_export.images.reading import SUFFIXES, check_readable
from dsr_export.int8.data_files import read_inputs
from dsr_export.sampling import SamplerSpec, seeded_noise, trajectory
from dsr_export.subject import SubjectCard, times_of

Array = npt.NDArray[Any]
SEED = 20_260_610
ROWS = 8  # of one call
RANDOM_ROWS = 16


def check_data(options: Int8Options) -> None:
    """What `open_data` would refuse by headers alone: before a model is traced, which takes longer."""
    path = options.data_path
    if path is None or options.tables or options.prompts_path is not None:
        return
    pictures = path.is_dir() and any(file.suffix.lower() in SUFFIXES for file in path.iterdir())
    for each in [path] if pictures or not path.is_dir() else sorted(path.glob("*.npz")):
        check_readable(each)


def open_data(
    options: Int8Options,
    card: SubjectCard,
    sampler: SamplerSpec | None,
    example: Callable[[int, int], Mapping[str, Array]],
) -> CalibrationData:
    """The data that `options` ask for. `example(rows, seed)` draws inputs; it is called for `random:SEED` alone.

    Raises:
        ExportError: no sampler to walk, or data that is empty, unreadable, of another shape or type, NaN or infinite.
    """
    if options.seed is not None:
        return Arrays(dict(example(RANDOM_ROWS, options.seed)), rows_a_call(card), card)
    if options.data != TRAJECTORY:
        return Arrays(read_inputs(Path(options.data), card), rows_a_call(card), card)
    if sampler is None:
        raise ExportError(f"{card.name} has no sampler, so it has no trajectories to calibrate with", hint=GIVE)
    return Trajectories(sampler, card, options.images)


def rows_a_call(card: SubjectCard) -> int:
    """Few for a large model, whose activations fill memory; what it takes for a fixed batch."""
    rows = 2 if card.is_large else ROWS
    low, high = card.batch_limits
    return min(max(rows, low), high or rows)


@dataclass(frozen=True)
class Trajectories:
    """Seeded walks from noise to data, for labels from all over the classes.

    Guidance gives each image its null label too; without it, every fourth image has that one.
    """

    sampler: SamplerSpec
    card: SubjectCard
    images: int

    @property
    def sections(self) -> Sections:
        """Of groups of images that fit a call."""
        return Sections(len(self._starts))

    def drive(self, answer: Callable[[Call], Array], progress: Progress, only: Container[int] | None = None) -> None:
        """Walks the images group by group; the ids of rows do not depend on the groups."""
        noise, labels = seeded_noise(SEED, self.images, self.card.inputs[0].with_batch(1)[1:]), self._labels()
        steps, groups = self.sampler.num_steps - 1, chosen_units(self.sections, only)
        for done, group in enumerate(groups):
            start = self._starts[group]
            images = np.arange(start, min(start + self._group, self.images))
            walk = _Walk(answer, images, steps, self.sections.of(group))
            for step in trajectory(walk, self.sampler, noise[images], labels[images]):
                progress(done * steps + step.index + 1, len(groups) * steps)

    @property
    def _doubled(self) -> bool:
        return self.sampler.guidance != 1.0

    @property
    def _group(self) -> int:
        return max(1, rows_a_call(self.card) // (2 if self._doubled else 1))

    @property
    def _starts(self) -> range:
        return range(0, self.images, self._group)

    def _labels(self) -> Array:
        labels = np.arange(self.images, dtype=np.int64) * max(self.card.num_classes, 1) // self.images
        if not self._doubled and self.sampler.null_label is not None:
            labels[3::4] = self.sampler.null_label
        return labels


@dataclass
class _Walk:
    """One group's denoiser: counts its steps and names its rows."""

    answer: Callable[[Call], Array]
    images: Array
    steps: int
    section: int
    index: int = 0

    def __call__(self, inputs: dict[str, Array]) -> Array:
        rows = len(inputs["x"])
        copy = np.repeat(np.arange(rows // len(self.images)), len(self.images))  # conditional, then null
        image = np.tile(self.images, rows // len(self.images))
        samples = (image * 2 + copy) * self.steps + self.index
        done = np.full(rows, self.index / max(self.steps - 1, 1))
        self.index += 1
        return self.answer(Call(inputs, samples, done, self.section))


@dataclass(frozen=True)
class Arrays:
    """Inputs by name, [n, ...] each."""

    values: dict[str, Array]
    rows: int
    card: SubjectCard

    @property
    def count(self) -> int:
        return len(next(iter(self.values.values())))

    @property
    def sections(self) -> Sections:
        """Of calls."""
        return Sections(len(self._starts))

    def drive(self, answer: Callable[[Call], Array], progress: Progress, only: Container[int] | None = None) -> None:
        """Calls of equal size; a model of fixed batch leaves the last rows out where they fill none."""
        if not self._starts:
            raise ExportError(f"{self.count} calibration rows do not fill the batch of {self.rows}", hint="give more")
        times, calls = times_of(self.values), chosen_units(self.sections, only)
        done_of_rows = np.zeros(self.count) if times is None else self._done(times)
        for done, call in enumerate(calls):
            chosen = slice(self._starts[call], self._starts[call] + self.rows)
            inputs = {name: value[chosen] for name, value in self.values.items()}
            place = None if times is not None else call / max(len(self._starts) - 1, 1)
            answer(Call(inputs, np.arange(self.count)[chosen], done_of_rows[chosen], self.sections.of(call), place))
            progress(done + 1, len(calls))

    @property
    def _starts(self) -> range:
        fixed = self.card.batch_limits[1] is not None
        return range(0, self.count - self.rows + 1 if fixed else self.count, self.rows)

    def _done(self, times: Array) -> Array:
        """From noise to data by the time; which end is noise depends on the model's path."""
        span = float(times.max() - times.min()) or 1.0
        late = (times - times.min()) / span
        reverse = self.card.sampler is not None and self.card.sampler.path == "reversed"
        return np.asarray(late if reverse else 1 - late)


def chosen_units(sections: Sections, only: Container[int] | None) -> list[int]:
    """The units of the sections `only`, in order; all of them for None."""
    return [unit for unit in range(sections.units) if only is None or sections.of(unit) in only]
