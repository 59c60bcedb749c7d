"""What a denoiser predicts, turned into the clean data or the noise that DPM-Solver's updates take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dsr_export.samplers.sampler import Array, fitting

Prediction = Literal["epsilon", "sample", "v_prediction", "flow_prediction"]
MEAN_CHANNELS = 3  # of a prediction with a learned variance; diffusers knows it for pictures only


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """At sigmas `[n + 1]`, with the amplitudes of signal and noise that belong to them, all float32.

    `to_data` is what the updates take: clean data, else noise. `limited` cuts clean data at a threshold.
    """

    prediction: Prediction
    to_data: bool
    learned_variance: bool
    limited: Callable[[Array], Array] | None
    sigmas: Array
    alphas: Array
    amplitudes: Array

    def converted(self, made: Array, i: int, x: Array) -> Array:
        """Of the prediction `made` for the state `x` at step `i`, in the shape and dtype of `x`."""
        if self.prediction == "epsilon" and self.learned_variance:
            made = made[:, :MEAN_CHANNELS]
        made = fitting(made, x, "a prediction")
        if self.to_data:
            clean = self._clean(made, i, x)
            return clean if self.limited is None else self.limited(clean)
        noise, alpha, amplitude = self._noise(made, i, x), self.alphas[i], self.amplitudes[i]
        if self.limited is None:
            return noise
        return np.asarray((x - alpha * self.limited((x - amplitude * noise) / alpha)) / amplitude)

    def _clean(self, made: Array, i: int, x: Array) -> Array:
        alpha, amplitude = self.alphas[i], self.amplitudes[i]
        if self.prediction == "epsilon":
            return np.asarray((x - amplitude * made) / alpha)
        if self.prediction == "v_prediction":
            return np.asarray(alpha * x - amplitude * made)
        return made if self.prediction == "sample" else np.asarray(x - self.sigmas[i] * made)

    def _noise(self, made: Array, i: int, x: Array) -> Array:
        alpha, amplitude = self.alphas[i], self.amplitudes[i]
        if self.prediction == "sample":
            return np.asarray((x - alpha * made) / amplitude)
        return np.asarray(alpha * made + amplitude * x) if self.prediction == "v_prediction" else made
