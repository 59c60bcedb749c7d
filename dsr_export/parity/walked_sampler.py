"""The sampler that the checks of a build walk: the model's own, with fewer steps for a large model."""

from __future__ import annotations

import dataclasses

from dsr_export.config import BatchRange
from dsr_export.parity.golden.vectors import fitted_sampler
from dsr_export.sampling import SamplerSpec
from dsr_export.subject import SubjectCard

LARGE_STEPS = 6  # walking a large model over its whole sampler would take a CPU an hour


def walked_sampler(card: SubjectCard, batch: BatchRange, steps: int | None) -> SamplerSpec | None:
    """With `steps` where they are given; None for a model that is no denoiser."""
    if card.sampler is None:
        return None
    own = card.sampler.num_steps
    chosen = steps or (min(LARGE_STEPS, own) if card.is_large else own)
    return fitted_sampler(dataclasses.replace(card.sampler, num_steps=chosen), batch)
