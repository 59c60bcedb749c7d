"""One model under each way of treating its outlier tokens: the table that the method is judged by.

Sites are where the model's own declaration puts them, or a `dsr.toml`; each method changes what happens there. What is
drawn is the FP32 PyTorch module, so that the method is judged and not an export of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from dsr_export.bundle.reader import Bundle
from dsr_export.config import ModelRequest
from dsr_export.declarations.dsr_file import OWN
from dsr_export.errors import ExportError
from dsr_export.evaluation.drawers import torch_drawer
from dsr_export.evaluation.evaluate import Asked, check_asked, drawn_key, opened_networks
from dsr_export.evaluation.joined_parts import CANDIDATE, REFERENCE
from dsr_export.evaluation.measured import Measured, Measuring, measure, read_part
from dsr_export.evaluation.parts import parts_of
from dsr_export.evaluation.references import subject_digest
from dsr_export.evaluation.summary import Line, summarised
from dsr_export.families import FamilyRequest, entry, load
from dsr_export.families.declared import with_declaration
from dsr_export.progress import Reporter
from dsr_export.spec import ReplaceSpec
from dsr_export.storage.cache import StageCache

NONE = "none"
METHODS: Mapping[str, str] = {
    NONE: "outliers left as they are",
    "mask": "outliers set to zero",
    "clip": "norms of outliers clipped to the threshold",
    "nearest": "outliers replaced by the nearest register, once",
    "recursive": "detected and replaced again, until the rounds are over",
}
ROUNDS = 2  # of `recursive`, where the declaration says one


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """Figures of one method; differences are to `none`."""

    method: str
    lines: tuple[Line, ...]
    parts: tuple[Measured, ...]


def compare_methods(
    request: ModelRequest, asked: Asked, cache: StageCache, shown: Reporter, *, decoder: Bundle | None = None
) -> list[MethodResult]:
    """A result for each of `METHODS`, in their order.

    Raises:
        ExportError: the model declares no sites, is not registered or no denoiser, makes latents and there is no
            decoder; and whatever `evaluate` refuses.
    """
    check_asked(asked, paired=False)
    model = declared_model(request)
    groups = declared_groups(model)
    panel, real = opened_networks(asked, request.model, cache, shown)
    measured: dict[str, tuple[Measured, ...]] = {}
    for method in METHODS:
        shown.note(f"{method}: {METHODS[method]}")
        subject = load(replace(model, replace=method_groups(groups, method)))
        with ExitStack() as opened:
            drawer = opened.enter_context(torch_drawer(subject, asked.drawn, decoder=decoder, runtime=asked.runtime))
            key = {"subject": subject_digest(subject), **_decoder_key(decoder), **drawn_key(asked, panel)}
            measuring = Measuring(
                candidate=drawer, reference=None, drawn=asked.drawn, classes=subject.num_classes, panel=panel, key=key
            )
            stages = measure(measuring, parts_of(asked.count), cache, shown)
        measured[method] = tuple(read_part(stage) for stage in stages)
    base = measured[NONE]
    return [
        MethodResult(
            method=method,
            parts=parts,
            lines=tuple(summarised(each, _against(parts, base), real, paired=True) for each in asked.metrics),
        )
        for method, parts in measured.items()
    ]


def method_groups(groups: tuple[ReplaceSpec, ...], method: str) -> tuple[ReplaceSpec, ...]:
    """The sites of `groups` under a method."""
    if method == NONE:
        return ()
    if method == "recursive":
        return tuple(replace(group, choice="nearest", rounds=max(group.rounds, ROUNDS)) for group in groups)
    choice: Any = method
    return tuple(replace(group, choice=choice, rounds=1) for group in groups)


def declared_model(request: ModelRequest) -> FamilyRequest:
    """The model with all that its `dsr.toml` says: what a method changes is what happens at the sites, and no more.

    Raises ExportError for a name or a file that do not exist, or do not fit.
    """
    asked = FamilyRequest(
        model=request.model,
        checkpoint=request.checkpoint,
        weights=request.weights,
        random_weights=request.random_weights,
        registers=request.registers,
        dsr=request.dsr,
        options=request.options,
    )
    return with_declaration(asked, entry(request.model).stage)


def declared_groups(model: FamilyRequest) -> tuple[ReplaceSpec, ...]:
    """The sites that the model or its `dsr.toml` declares. ExportError where there are none."""
    groups = load(model).dsr.denoiser.replace
    if not groups:
        raise ExportError(
            f"{model.model} declares no replacement sites, so there is nothing to compare",
            hint=f"`dsr-export diagnose {model.model}` proposes them: give its file with --dsr",
        )
    if any(group.registers != OWN for group in groups):
        raise ExportError(
            "methods are compared with the model's own registers",
            hint='registers = "diffusion", and choice = "nearest"',
        )
    return groups


def _against(parts: tuple[Measured, ...], base: tuple[Measured, ...]) -> list[Measured]:
    """Parts whose reference is what another method measured of the same noise."""
    made: list[Measured] = []
    for part, other in zip(parts, base, strict=True):
        reference = {
            f"{REFERENCE}{name.removeprefix(CANDIDATE)}": value
            for name, value in other.items()
            if name.startswith(CANDIDATE)
        }
        made.append({**part, **reference})
    return made


def _decoder_key(decoder: Bundle | None) -> dict[str, Any]:
    return {} if decoder is None else {"decoder": decoder.manifest.digest}
