"""One training, from a loaded model to the tensors it comes to: everything but reading requests and writing results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dsr_export.diagnosis.models.tokens import find_blocks
from dsr_export.errors import ExportError
from dsr_export.families.network_parts.trunk import Trunk
from dsr_export.fitting.loop import LoopSettings, step_generator, train
from dsr_export.fitting.losses import Draw, Objective, norm_term
from dsr_export.fitting.processes import Processes
from dsr_export.fitting.request import FitOptions
from dsr_export.fitting.result import Result
from dsr_export.fitting.state_file import State
from dsr_export.fitting.tensors import (
    as_files,
    entering_tokens,
    flat,
    sites_of,
    start_from_ordinary_tokens,
    trained_tensors,
)
from dsr_export.fitting.wish import REGISTERS_FILE, Wish
from dsr_export.progress import Reporter
from dsr_export.subject import Subject
from dsr_export.subjects.tensors_digest import tensors_digest


def trained(
    subject: Subject,
    draft: Path,
    wish: Wish,
    objective: Objective,
    asked: FitOptions,
    saved: Path,
    together: Processes,
    shown: Reporter,
) -> Result:
    """What the files come to; untouched are those that are as they began.

    `subject` was loaded from `draft`; `saved` keeps the state of the process that leads.

    Raises ExportError for a loss that is no number, and where nothing that is trained changes it.
    """
    module = subject.module.eval().to(together.device)
    tensors = trained_tensors(module, draft, wish)
    leaves = list(flat(tensors).values())
    frozen = tensors_digest(module, without=leaves)
    sites = {file.name: sites_of(module, draft / file.name) for file in wish.files if file.name != REGISTERS_FILE}
    first_sites = {name: each[0] for name, each in sites.items()}
    if asked.norm_weight and not sites:
        raise ExportError(
            "--norm-weight weighs tokens that come to sites with trained registers, and there are none",
            hint="leave it out, or give the declaration a [[denoiser.replace]] with registers to train",
        )
    with entering_tokens(sites) as seen, _bounded_memory(subject), torch.enable_grad():

        def loss_of(draw: Draw) -> Tensor:
            for each in seen.values():
                each.clear()
            loss = objective(module, draw)
            return loss + asked.norm_weight * norm_term(seen, first_sites) if asked.norm_weight else loss

        if sites:
            with torch.no_grad():
                loss_of(Draw(rows=asked.batch, generator=step_generator(asked.seed, -1)))
            start_from_ordinary_tokens(tensors, seen, asked.seed)
        state = State(flat(tensors))
        began = as_files(state.averages)
        if together.leads:
            state.resume(saved)
        if together.count > 1:
            state.take(together.told(state.tensors()))
        settings = LoopSettings(steps=asked.steps, batch=asked.batch, rate=asked.rate, seed=asked.seed)
        train(state, loss_of, settings, saved, together, shown)
    if tensors_digest(module, without=leaves) != frozen:
        raise ExportError("the base changed while registers were trained", hint="this is a defect: report it")
    made = as_files(state.averages)
    untouched = [name for name in made if all(v.equal(began[name][each]) for each, v in made[name].items())]
    return Result(made=made, losses=state.losses, untouched=untouched)


@contextmanager
def _bounded_memory(subject: Subject) -> Iterator[None]:
    """Blocks of a large model compute once more on the way back, and keep no activations."""
    with ExitStack() as undone:
        blocks = _blocks(subject.module) if subject.card().is_large else []
        for block in blocks:
            before = block.forward
            block.forward = partial(_again, before)
            undone.callback(setattr, block, "forward", before)
        yield


def _again(forward: Any, *args: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **named)
    return checkpoint(forward, *args, use_reentrant=False, **named)


def _blocks(module: nn.Module) -> list[nn.Module]:
    return list(module.blocks if isinstance(module, Trunk) else find_blocks(module))
