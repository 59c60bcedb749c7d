"""Which loss a training has, by its data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dsr_export.fitting.data import Data, Inputs, Latents, Pictures, own_calls
from dsr_export.fitting.denoised import ViewDistillation
from dsr_export.fitting.losses import Distillation, Objective, TrainingLoss
from dsr_export.fitting.processes import Processes
from dsr_export.fitting.request import FitOptions
from dsr_export.progress import Reporter
from dsr_export.registers import RecursiveReplacement
from dsr_export.storage.cache import StageCache
from dsr_export.storage.made_with import source_digest, tool_versions
from dsr_export.storage.npz_file import read_npz
from dsr_export.subject import Subject

Key = Mapping[str, Any]
_CALLS = "calls.npz"


def objective_of(
    base: Subject,
    key: Key,
    data: Data | None,
    asked: FitOptions,
    together: Processes,
    cache: StageCache,
    shown: Reporter,
) -> Objective:
    """The training loss of latents, or else distillation: the teacher is the base with its outliers left as they are.

    `key` identifies the base: its own calls are kept in `cache`. The teacher works where `together` does.
    """
    if isinstance(data, Latents):
        assert base.sampler is not None  # else the data is refused
        return TrainingLoss(base.sampler, data)
    if isinstance(data, Pictures):
        base.module.to(together.device)
        return ViewDistillation(base, data)
    for site in base.module.modules():
        if isinstance(site, RecursiveReplacement):
            site.enabled = False
    data = data or together.in_turn(lambda: _own_calls(base, key, asked.seed, cache, shown))
    base.module.to(together.device)
    return Distillation(base, data)


def _own_calls(base: Subject, key: Key, seed: int, cache: StageCache, shown: Reporter) -> Inputs:
    """Kept: a large model walks for an hour, and whoever is stopped afterwards goes on behind it."""

    def produce(folder: Path) -> None:
        assert base.sampler is not None  # else `self` is refused
        np.savez(folder / _CALLS, **own_calls(base, base.sampler, seed, shown).values)  # type: ignore[arg-type]

    made_with = {"tools": tool_versions(), "source": source_digest(), "threads": torch.get_num_threads()}
    stage = cache.run("fit-calls", {"base": key, "seed": seed, **made_with}, produce)
    return Inputs(values=read_npz(stage.path / _CALLS))
