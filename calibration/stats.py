"""Streaming statistics of one activation: bounded memory, whatever the number of batches, and independent of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.methods.magnitudes import Magnitudes
from calibration.places import CORNER, FIRST_FRAME, TokenPlaces
from calibration.row_sample import RowSample
from calibration.sections import SectionSums, Sums
from calibration.shelf import Shelf
from calibration.token_roles import ROLES, RegisterRows, token_roles
from graphs.errors import ExportError

Array = npt.NDArray[Any]
BUCKETS = 4  # of timesteps, from noise to data
SAMPLE_ROWS = 512
ENOUGH_ROWS = 4  # for each channel; with fewer, products of channels are not known


def token_weights(energy: Array) -> Array:
    """Weights [N] that let every token count alike, for squared norms [N]: 1 for an ordinary one, less for outliers.

    Half of an outlier's energy or more is divided out; a token of little energy gains nothing.
    """
    middle = float(np.median(energy))
    return np.asarray(2 * middle / (energy + middle) if middle > 0 else np.ones(len(energy)), np.float64)


@dataclass
class ActivationStats:
    """Of an activation [B, N, K] (a condition [B, K] counts as one token, more axes as tokens of one sample).

    `batch_axis` is where B stands, for a sequence in front of it.

    What depends on an order of adding is added up in `sections`: see `calibration.sections`.
    `hessian` [K, K] is the weighted sum of x^T x, every token of an image counting alike; `sums` [K] that of x;
    `channel_largest` [K] and `row_largest` [N] are exact. `count` rows were seen.
    With `with_nan`, tokens that are NaN (nothing to attend to) are the model's own, and count as zeros. `places` tells
    corners, first frames and a prompt's padding from other tokens.
    """

    name: str
    width: int
    tokens: int
    registers: RegisterRows
    with_hessian: bool = True
    with_nan: bool = False
    places: TokenPlaces = field(default_factory=TokenPlaces)
    batch_axis: int = 0
    magnitudes: Magnitudes = field(default_factory=Magnitudes.none)
    patch_magnitudes: Magnitudes = field(default_factory=Magnitudes.none)
    count: int = 0
    sections: int = 1
    shelf: Shelf | None = None

    def __post_init__(self) -> None:
        self.channel_largest = np.zeros(self.width, np.float32)
        self.row_largest = np.zeros(self.tokens, np.float32)
        self.role_tokens = np.zeros((len(ROLES), BUCKETS), np.int64)
        self.role_largest = np.zeros((len(ROLES), BUCKETS), np.float32)
        self.sample = RowSample(SAMPLE_ROWS, self.width)
        self.added = SectionSums(self.sections, self._zeros, self.shelf)
        self._is_register = self.registers.mask(self.tokens)
        self._places = self.places.of_image(self.tokens, self._is_register)

    def _zeros(self) -> Sums:
        inputs = self.width if self.with_hessian else 0
        return Sums(
            squares=np.zeros((len(ROLES), BUCKETS)),
            weight=np.zeros(()),
            sums=np.zeros(self.width),
            hessian=np.zeros((inputs, inputs), np.float32),
        )

    @property
    def own_rows(self) -> Array:
        """Rows with magnitudes of their own, [N] bool: registers, and the image's sinks that are known by place."""
        return np.asarray(self._is_register | np.isin(self._places, (CORNER, FIRST_FRAME)))

    def observe(
        self,
        x: Array,
        samples: Array,
        buckets: Array,
        weights: Array,
        prompt_mask: Array | None = None,
        *,
        section: int = 0,
    ) -> None:
        """Takes x of the samples with the ids [B], each in its bucket [B], weighted [B]; all are in one `section`.

        `prompt_mask` [B, T] is 0 for padding of the prompt; it counts for activations of T tokens, and where both
        streams are one sequence.

        Raises:
            ExportError: a value is NaN or infinite.
        """
        x = self.by_sample(x, len(samples))
        size = np.abs(x)
        self._check(size)
        self.channel_largest = np.maximum(self.channel_largest, size.max(axis=(0, 1)))
        self.row_largest = np.maximum(self.row_largest, size.max(axis=(0, 2)))
        self.magnitudes = self.magnitudes.merged(Magnitudes.of(x))
        added = self.added.of(section)
        self._observe_roles(x, buckets, prompt_mask, added)
        self._observe_products(x, weights, added)
        self.sample.offer(x, samples, weights)

    def by_sample(self, x: Array, samples: int) -> Array:
        """[B, N, K] of so many samples, without NaN where those are the model's own."""
        x = np.moveaxis(np.asarray(x, np.float32), self.batch_axis, 0).reshape(samples, self.tokens, self.width)
        return self._without_nan(x) if self.with_nan else x

    def _without_nan(self, x: Array) -> Array:
        """Where some are left: of nothing but NaN there is no range."""
        lost = np.isnan(x).any(axis=2, keepdims=True)
        return x if lost.all() else np.where(lost, np.float32(0), x)

    def _check(self, size: Array) -> None:
        if not np.isfinite(size.max()):
            raise ExportError(
                f"calibration: '{self.name}' becomes NaN or infinite",
                hint="no range of codes holds it: build with --precision fp16, or calibrate on inputs that give none "
                "(an attention row with nothing to attend to gives NaN)",
            )

    def _observe_roles(self, x: Array, buckets: Array, prompt_mask: Array | None, added: Sums) -> None:
        places = self._places
        if prompt_mask is not None:
            places = self.places.of_prompt(places, self._is_register, prompt_mask)
        masks = token_roles(x, self._is_register, places)
        self.patch_magnitudes = self.patch_magnitudes.merged(Magnitudes.of(x[masks["patch"]]))
        for bucket in np.unique(buckets):
            inside = (buckets == bucket)[:, None]
            for place, role in enumerate(ROLES):
                rows = x[masks[role] & inside]
                self.role_tokens[place, bucket] += len(rows)
                largest = np.abs(rows).max(initial=self.role_largest[place, bucket])
                self.role_largest[place, bucket] = largest
                added.squares[place, bucket] += np.square(rows, dtype=np.float64).sum()

    def _observe_products(self, x: Array, weights: Array, added: Sums) -> None:
        added.sums += np.tensordot(weights, x.sum(axis=1, dtype=np.float64), axes=1)
        added.weight += float(weights.sum()) * self.tokens
        self.count += x.shape[0] * x.shape[1]
        if self.with_hessian:
            alike = np.stack([token_weights(energy) for energy in np.square(x).sum(axis=2)])  # [B, N]
            flat = (x * np.sqrt(alike * weights[:, None])[..., None].astype(np.float32)).reshape(-1, self.width)
            added.hessian += flat.T @ flat

    @property
    def hessian(self) -> Array:
        """Of all sections."""
        return self.added.whole().hessian

    @property
    def representative(self) -> bool:
        """Whether enough rows were seen to say what inputs are like: a few timesteps and labels are not."""
        return self.count >= ENOUGH_ROWS * self.width

    @property
    def mean(self) -> Array:
        """Weighted mean of each channel, [K]."""
        whole = self.added.whole()
        return np.asarray(whole.sums / max(float(whole.weight), 1e-12), np.float32)

    def roles_as_dict(self) -> dict[str, Any]:
        """Role -> figures over all buckets, and those of each bucket."""
        squares = self.added.whole().squares
        report: dict[str, Any] = {}
        for role, *found in zip(ROLES, self.role_tokens, self.role_largest, squares, strict=True):
            tokens, largest, energy = found
            if tokens.sum():
                by_bucket = [self._figures(*each) for each in zip(tokens, largest, energy, strict=True)]
                report[role] = {**self._figures(tokens.sum(), largest.max(), sum(energy)), "buckets": by_bucket}
        return report

    def _figures(self, tokens: int, largest: float, squares: float) -> dict[str, float | int]:
        mean = float(squares) / (int(tokens) * self.width) if tokens else 0.0
        return {"count": int(tokens), "amax": float(largest), "rms": mean**0.5}
