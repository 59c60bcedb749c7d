"""The largest products of whole calls, once it is known what their inputs' codes are.

A sample of rows may lack every row of a token that is unlike all others, as registers are. A few images of a few calls
have all their tokens; what those make is looked at with the weights and row factors that were chosen, in a pass of its
own. What only other images have is in the sample by chance, and else within the headroom or cut off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.activation_schemes import Choice
from calibration.plan import Chosen
from calibration.product_steps import has_codes, largest_products
from calibration.stats import ActivationStats
from calibration.weight_codes import side_by_side
from graphs.quantize.schemes import GemmFormat, Scheme
from graphs.weights.gemms import WeightGemm

Array = npt.NDArray[Any]


class SeenProducts:
    """Of each activation and format whose products may be codes, by their names: `largest` [N] of all GEMMs that read
    the activation, side by side."""

    def __init__(
        self,
        groups: Sequence[list[WeightGemm]],
        stats: Mapping[str, ActivationStats],
        chosen: Mapping[str, Chosen],
        scheme: Scheme,
    ) -> None:
        self.largest: dict[tuple[str, str], Array] = {}
        self._groups, self._stats = groups, stats
        self._choices = {
            str(group[0].activation.name): _coded(group, chosen[str(group[0].activation.name)], scheme)
            for group in groups
        }

    def observe(self, outputs: Mapping[str, Array], samples: int) -> None:
        """Takes the activations of a call of so many samples, by name."""
        for group in self._groups:
            name = str(group[0].activation.name)
            if not self._choices[name]:
                continue
            stats, weight = self._stats[name], side_by_side(group)
            rows = stats.by_sample(outputs[name], samples).reshape(-1, stats.width)
            tokens = np.tile(np.arange(stats.tokens), samples)
            for form, choice in self._choices[name]:
                made = largest_products(rows, tokens, weight, choice)
                self.largest[name, form] = np.maximum(self.largest.get((name, form), 0), made)


def _coded(group: Sequence[WeightGemm], known: Chosen, scheme: Scheme) -> list[tuple[str, Choice]]:
    forms: Sequence[GemmFormat] = scheme.formats(group[0].in_features)
    return [(form.name, choice) for form, choice in zip(forms, known.choices, strict=True) if has_codes(form)]
