"""The steps: AdamW with warm-up and a cosine decay, and an average of the weights, which is what is kept.

What a step draws depends on the seed and its number alone, so that a run can go on anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dsr_export.errors import ExportError
from dsr_export.fitting.losses import Draw
from dsr_export.fitting.processes import Processes
from dsr_export.fitting.state_file import State
from dsr_export.progress import Reporter

SAVED_EVERY = 20  # steps
WARM_UP = 0.05  # of the steps
CLIPPED = 1.0  # norm of a gradient
AVERAGED = 0.995
PATIENCE = 20  # steps in which something that is trained must have changed the loss
_RATE = "give a smaller --rate"
_NOTHING = (
    "no token comes above the thresholds (lower them), or what the model makes does not depend on its tokens, as where "
    "its last layer is all zeros"
)


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """`steps` of `batch` rows each; `rate` is the largest learning rate."""

    steps: int
    batch: int
    rate: float
    seed: int


def train(
    state: State,
    loss_of: Callable[[Draw], Tensor],
    settings: LoopSettings,
    saved: Path,
    together: Processes,
    shown: Reporter,
) -> None:
    """Moves the tensors of `state`, from where it stands to the last step. `together` share the rows of each.

    Raises ExportError where the loss or its slope is no number: the learning rate is too large, or the data is; and
    where nothing changes it.
    """
    part = together.share(settings.batch)
    with shown.stage("fit") as bar:
        for step in range(len(state.losses), settings.steps):
            draw = Draw(
                rows=settings.batch, generator=step_generator(settings.seed, step), part=part, everywhere=together.mean
            )
            state.losses.append(_stepped(state, loss_of(draw), step, settings, together))
            if step + 1 == min(PATIENCE, settings.steps) and not state.moved():
                raise ExportError("nothing that is trained changes the loss", hint=_NOTHING)
            bar(step + 1, settings.steps)
            if together.leads and ((step + 1) % SAVED_EVERY == 0 or step + 1 == settings.steps):
                state.save(saved)
            if (step + 1) % max(1, settings.steps // 10) == 0:
                shown.note(f"step {step + 1} of {settings.steps}: loss {_recent(state.losses):.4g}")


def step_generator(seed: int, step: int) -> torch.Generator:
    """What draws the rows of a step."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


def learning_rate(settings: LoopSettings, step: int) -> float:
    """Of a step, from 0: rises linearly, then falls as a cosine to 0 behind the last one."""
    warm = max(1, round(WARM_UP * settings.steps))
    return settings.rate * min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / settings.steps))


def _stepped(state: State, loss: Tensor, step: int, settings: LoopSettings, together: Processes) -> float:
    """The loss before the step. Numbers are judged when they are everybody's, so that all go on, or none."""
    trained = list(state.values.values())
    found = torch.autograd.grad(loss, trained, allow_unused=True)
    own = [torch.zeros_like(value) if each is None else each for value, each in zip(trained, found, strict=True)]
    mean, *slopes = together.means([loss.detach(), *own])
    if not mean.isfinite():
        hint = _RATE if step else "nothing is trained yet: the data, or the model on it, has too large values"
        raise ExportError(f"the loss is {float(mean)} in step {step}", hint=hint)
    if not all(each.isfinite().all() for each in slopes):
        raise ExportError(f"the slope of the loss is no number in step {step}", hint=_RATE)
    _move(state, slopes, step, settings)
    return float(mean)


def _move(state: State, slopes: Sequence[Tensor], step: int, settings: LoopSettings) -> None:
    trained = list(state.values.values())
    for value, slope in zip(trained, slopes, strict=True):
        value.grad = slope
    torch.nn.utils.clip_grad_norm_(trained, CLIPPED)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(settings, step)
    state.optimizer.step()
    decay = min(AVERAGED, (1 + step) / (10 + step))
    with torch.no_grad():
        for name, average in state.averages.items():
            average.lerp_(state.values[name], 1 - decay)
    if not all(value.isfinite().all() for value in trained):
        raise ExportError(f"registers are no numbers behind step {step}", hint=_RATE)


def _recent(losses: list[float]) -> float:
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)
