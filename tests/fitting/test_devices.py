"""Steps on another device than the CPU, without one: `meta` has no numbers, and refuses to mix with what has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dsr_export.families import load_subject
from dsr_export.fitting.data import Inputs, Latents
from dsr_export.fitting.losses import Distillation, Draw, TrainingLoss, norm_term
from dsr_export.fitting.objective import objective_of
from dsr_export.fitting.processes import Processes
from dsr_export.fitting.tensors import flat, trained_tensors, write_draft
from dsr_export.fitting.wish import DSR_FILE, read_wish
from dsr_export.progress import Silent
from dsr_export.registers import RecursiveReplacement
from dsr_export.sources import load_subject as load_model
from dsr_export.storage.cache import StageCache
from tests.families.tiny_sizes import REQUIRED
from tests.fitting.small_fits import BOTH, base, options

Made = Callable[[Any, Path], Any]


def _training(subject: Any, _: Path) -> Any:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((6, 3, 8, 8)).astype(np.float32)
    return TrainingLoss(subject.sampler, Latents(values=values, labels=np.arange(6) % 5))


def _distillation(subject: Any, folder: Path) -> Any:
    """As `fit` makes it: the teacher goes to the device too."""
    rows = Inputs(values=subject.example(6, seed=0))
    elsewhere = Processes(device="meta")
    made = objective_of(subject, {}, rows, options(folder), elsewhere, StageCache(folder / "cache"), Silent())
    assert isinstance(made, Distillation)
    return made


@pytest.mark.parametrize("made", [_training, _distillation])
def test_losses_and_slopes_are_where_the_model_is(made: Made, tmp_path: Path) -> None:
    request = base(tmp_path)
    asked = options(tmp_path, BOTH.partition("[[")[0])  # sites ask for numbers on their way
    draft = tmp_path / "draft"
    draft.mkdir()
    wish = read_wish(asked.dsr, own=0)
    subject = load_subject("rae-dit", checkpoint=request.checkpoint, **REQUIRED)
    write_draft(draft, wish, subject.module, 0)
    module = load_model("rae-dit", checkpoint=request.checkpoint, dsr=draft / DSR_FILE, **REQUIRED).module.to("meta")
    leaves = list(flat(trained_tensors(module, draft, wish)).values())
    objective = made(subject, tmp_path)
    with torch.enable_grad():
        loss = objective(module, Draw(rows=4, generator=torch.Generator().manual_seed(0)))
    slopes = torch.autograd.grad(loss, leaves, allow_unused=True)
    assert loss.device.type == "meta" and all(each is not None and each.device.type == "meta" for each in slopes)


def test_the_norm_term_is_where_the_tokens_are() -> None:
    site = RecursiveReplacement(rule="median", threshold=4.0, choice="mask", exclude=(0,))
    tokens = torch.zeros(2, 5, 3, device="meta", requires_grad=True)
    assert norm_term({"a": [tokens]}, {"a": site}).device.type == "meta"
