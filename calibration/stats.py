"""Streaming statistics of one activation: bounded memory, whatever the number of batches, and independent of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.methods.magnitudes import Magnitudes
from calibration.places import CORNER, FIRST_FRAME, OTHER, TokenPlaces, text_roles
from calibration.row_sample import RowSample
from calibration.token_roles import ROLES, RegisterRows, Role, token_roles
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
class RoleStats:
    """Tokens of one role in one bucket: how many, their largest magnitude, and the sum of their squares."""

    tokens: int = 0
    largest: float = 0.0
    squares: float = 0.0

    def add(self, rows: Array) -> None:
        """Takes rows [n, K]."""
        if len(rows):
            self.tokens += len(rows)
            self.largest = max(self.largest, float(np.abs(rows).max()))
            self.squares += float(np.square(rows, dtype=np.float64).sum())

    def as_dict(self, width: int) -> dict[str, float | int]:
        mean = self.squares / (self.tokens * width) if self.tokens else 0.0
        return {"count": self.tokens, "amax": self.largest, "rms": mean**0.5}


@dataclass
class ActivationStats:
    """Of an activation [B, N, K] (a condition [B, K] counts as one token, more axes as tokens of one sample).

    `batch_axis` is where B stands, for a sequence in front of it.

    `hessian` [K, K] is the weighted sum of x^T x, every token of an image counting alike; `sums` [K] that of x;
    `channel_largest` [K] and `row_largest` [N] are exact. `count` rows were seen, whose weights add up to `weight`.
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
    weight: float = 0.0
    count: int = 0

    def __post_init__(self) -> None:
        self.channel_largest = np.zeros(self.width, np.float32)
        self.row_largest = np.zeros(self.tokens, np.float32)
        self.sums = np.zeros(self.width, np.float64)
        self.hessian = np.zeros((self.width, self.width) if self.with_hessian else (0, 0), np.float32)
        self.sample = RowSample(SAMPLE_ROWS, self.width)
        self.roles: dict[tuple[Role, int], RoleStats] = {(r, b): RoleStats() for r in ROLES for b in range(BUCKETS)}
        self._is_register = self.registers.mask(self.tokens)
        self._places = self.places.of_image(self.tokens, self._is_register)

    @property
    def own_rows(self) -> Array:
        """Rows with magnitudes of their own, [N] bool: registers, and the image's sinks that are known by place."""
        return np.asarray(self._is_register | np.isin(self._places, (CORNER, FIRST_FRAME)))

    def observe(
        self, x: Array, samples: Array, buckets: Array, weights: Array, prompt_mask: Array | None = None
    ) -> None:
        """Takes x of the samples with the ids [B], each in its bucket [B], weighted [B].

        `prompt_mask` [B, T] is 0 for padding of the prompt; it counts for activations of T tokens.

        Raises:
            ExportError: a value is NaN or infinite.
        """
        x = np.moveaxis(np.asarray(x, np.float32), self.batch_axis, 0).reshape(len(samples), self.tokens, self.width)
        if self.with_nan:
            x = self._without_nan(x)
        size = np.abs(x)
        self._check(size)
        self.channel_largest = np.maximum(self.channel_largest, size.max(axis=(0, 1)))
        self.row_largest = np.maximum(self.row_largest, size.max(axis=(0, 2)))
        self.magnitudes = self.magnitudes.merged(Magnitudes.of(x))
        self._observe_roles(x, buckets, prompt_mask)
        self._observe_products(x, weights)
        self.sample.offer(x, samples, weights)

    def _without_nan(self, x: Array) -> Array:
        """Where some are left: of nothing but NaN there is no range."""
        lost = np.isnan(x).any(axis=2, keepdims=True)
        return x if lost.all() else np.where(lost, np.float32(0), x)

    def _check(self, size: Array) -> None:
        if not np.isfinite(size.max()):
            raise ExportError(
                f"calibration: '{self.name}' becomes NaN or infinite",
                hint="INT8 has no code for NaN: build with --precision fp16, or calibrate on inputs that give none "
                "(an attention row with nothing to attend to gives NaN)",
            )

    def _observe_roles(self, x: Array, buckets: Array, prompt_mask: Array | None) -> None:
        places = self._places
        if prompt_mask is not None and prompt_mask.shape == x.shape[:2] and (places == OTHER).all():
            places = text_roles(prompt_mask, prompt_mask.shape)
        masks = token_roles(x, self._is_register, places)
        self.patch_magnitudes = self.patch_magnitudes.merged(Magnitudes.of(x[masks["patch"]]))
        for bucket in np.unique(buckets):
            inside = (buckets == bucket)[:, None]
            for role, mask in masks.items():
                self.roles[role, int(bucket)].add(x[mask & inside])

    def _observe_products(self, x: Array, weights: Array) -> None:
        self.sums += np.tensordot(weights, x.sum(axis=1, dtype=np.float64), axes=1)
        self.weight += float(weights.sum()) * self.tokens
        self.count += x.shape[0] * x.shape[1]
        if self.with_hessian:
            alike = np.stack([token_weights(energy) for energy in np.square(x).sum(axis=2)])  # [B, N]
            flat = (x * np.sqrt(alike * weights[:, None])[..., None].astype(np.float32)).reshape(-1, self.width)
            self.hessian += flat.T @ flat

    @property
    def representative(self) -> bool:
        """Whether enough rows were seen to say what inputs are like: a few timesteps and labels are not."""
        return self.count >= ENOUGH_ROWS * self.width

    @property
    def mean(self) -> Array:
        """Weighted mean of each channel, [K]."""
        return np.asarray(self.sums / max(self.weight, 1e-12), np.float32)

    def roles_as_dict(self) -> dict[str, Any]:
        """Role -> figures over all buckets, and those of each bucket."""
        report: dict[str, Any] = {}
        for role in ROLES:
            parts = [self.roles[role, bucket] for bucket in range(BUCKETS)]
            whole = RoleStats(
                sum(p.tokens for p in parts), max(p.largest for p in parts), sum(p.squares for p in parts)
            )
            if whole.tokens:
                by_bucket = [part.as_dict(self.width) for part in parts]
                report[role] = {**whole.as_dict(self.width), "buckets": by_bucket}
        return report
