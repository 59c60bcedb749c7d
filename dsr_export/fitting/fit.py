"""`fit`: loads a model, trains what its `dsr.toml` asks for, compares before and after, and writes a folder."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save, save_file

from dsr_export.bundle.result_folder import ResultFolder
from dsr_export.config import ModelRequest
from dsr_export.declarations.dsr_file import read_dsr_file
from dsr_export.diagnosis.asked import model_words
from dsr_export.diagnosis.verdicts import build_command
from dsr_export.errors import ExportError
from dsr_export.families.diffusers.general.adapter import GeneralDenoiser
from dsr_export.fitting.base import check_kept, loaded_base
from dsr_export.fitting.compared import Compared, compared
from dsr_export.fitting.data import Data, Inputs, Latents, Pictures, data_digest, read_data
from dsr_export.fitting.objective import objective_of
from dsr_export.fitting.page import fit_page
from dsr_export.fitting.processes import Processes, launched
from dsr_export.fitting.record import CARD, KIND, PAGE, RECORD, as_text, card, record
from dsr_export.fitting.request import FitOptions
from dsr_export.fitting.result import Result, kept_result
from dsr_export.fitting.tensors import write_draft
from dsr_export.fitting.trained import trained
from dsr_export.fitting.verdict import fit_verdict
from dsr_export.fitting.wish import DSR_FILE, REGISTERS_FILE, Wish, read_wish
from dsr_export.progress import Reporter, Silent
from dsr_export.readable import readable
from dsr_export.sources import find_source
from dsr_export.storage.cache import StageCache
from dsr_export.storage.canonical import canonical_digest
from dsr_export.storage.leftovers import scratch_folder
from dsr_export.storage.locks import exclusive
from dsr_export.storage.made_with import source_digest, tool_versions
from dsr_export.subject import Subject, require_module
from dsr_export.subjects.tensors_digest import tensors_digest
from graphs.digests import bytes_digest

_MADE = re.compile(r"(site|kept)-\d+\.safetensors", re.ASCII)  # no checkpoint that a user put beside them
FOLDER = ResultFolder(
    record=RECORD,
    kind=KIND,
    called="training",
    known=lambda name: name in (RECORD, CARD, PAGE, DSR_FILE, REGISTERS_FILE) or bool(_MADE.fullmatch(name)),
)
_PROBE = '[[denoiser.replace]]\nlayers = [0]\nrule = "median"\nthreshold = 4.0\nchoice = "mask"\n'
OBJECTIVES = {
    Latents: "the model's own training loss",
    Inputs: "distillation of the model without sites, on the calls given",
    Pictures: "distillation of the encoder's own features, averaged over shifted views",
    type(None): "distillation of the model without sites, on its own trajectories",
}


def fit(
    request: ModelRequest, asked: FitOptions, cache: StageCache, *, reporter: Reporter | None = None
) -> dict[str, Any] | None:
    """Trains, and writes `asked.out`. Returns a summary: the folder, the command that builds it, losses, ratios.

    What is kept is the average of the weights. A run that is stopped goes on from its state in the cache. Of several
    processes that a launcher started, all but the first return None and write nothing.

    Raises ExportError for a model, a declaration or data that do not fit, and where the training comes to no number.
    """
    FOLDER.check(asked.out, force=asked.force)
    check_kept(request, asked)
    with launched(asked.device) as together:
        together.share(asked.batch)
        shown = reporter if reporter and together.leads else Silent()
        with exclusive(asked.out) if together.leads else nullcontext():
            return _fitted(request, asked, cache, together, shown)


def _fitted(
    request: ModelRequest, asked: FitOptions, cache: StageCache, together: Processes, shown: Reporter
) -> dict[str, Any] | None:
    digest = data_digest(asked.data)
    declared = read_dsr_file(asked.dsr, trainable=True)  # before the model is loaded, which takes longer
    with shown.stage("load"):
        base, source_key = loaded_base(request, declared)
    own = base.dsr.denoiser
    wish = read_wish(asked.dsr, own=own.registers, start=own.start)
    data = read_data(asked.data, base)
    frozen = tensors_digest(base.module)
    key = _key(source_key, wish, asked, digest, together.count)
    with scratch_folder("fit") as draft:
        write_draft(draft, wish, _with_known_widths(request, asked, base, draft), asked.seed)
        state = cache.root / "fit-state" / f"{canonical_digest(key)}.safetensors"

        def train() -> Result:
            objective = objective_of(base, source_key, data, asked, together, cache, shown)
            fitted = _loaded(request, asked, draft)
            return trained(fitted, draft, wish, objective, asked, state, together, shown)

        result = kept_result(cache, key, train, together)
        if result is None:
            return None
        state.unlink(missing_ok=True)
        digests = {**_digests(frozen, digest, base, data), "processes": together.count}
        return _written(request, asked, wish, base, draft, result, digests, shown)


def _written(
    request: ModelRequest,
    asked: FitOptions,
    wish: Wish,
    base: Subject,
    draft: Path,
    result: Result,
    digests: dict[str, Any],
    shown: Reporter,
) -> dict[str, Any]:
    made, losses = result.made, result.losses
    for name, tensors in made.items():
        save_file(tensors, draft / name)
    fitted = _loaded(request, asked, draft)
    found = compared(base, fitted, shown, asked.seed)
    verdict = fit_verdict(found, losses, build_command(model_words(request), asked.out / DSR_FILE), result.untouched)
    seen = _seen(found, verdict.headline)
    said = record(base.name, verdict.command or "", wish, asked, digests, losses, seen)
    facts = [("steps", str(asked.steps)), ("registers", str(sum(file.count for file in wish.files)))]
    facts += [("loss at first", f"{losses[0]:.4g}"), ("loss at last", f"{sum(losses[-20:]) / len(losses[-20:]):.4g}")]
    page = fit_page(f"Registers for {base.name}", verdict, facts, losses, found)
    contents = {name: save(tensors) for name, tensors in made.items()}
    contents |= {name: path.read_bytes() for name, path in wish.kept.items()}
    texts = {RECORD: as_text(said), CARD: card(said), PAGE: page, DSR_FILE: wish.text}
    contents |= {name: readable(text).encode() for name, text in texts.items()}
    FOLDER.write(asked.out, contents, force=asked.force)
    return {
        "out": readable(str(asked.out)),
        "files": sorted(contents),
        "loss": {"first": losses[0], "last": losses[-1]},
        "headline": verdict.headline,
        "details": list(verdict.details),
        "build": verdict.command,
        **seen,
    }


def _with_known_widths(request: ModelRequest, asked: FitOptions, base: Subject, scratch: Path) -> Any:
    """A module that knows the widths of its streams: a general class finds its blocks when something is asked of it."""
    if not isinstance(base.module, GeneralDenoiser):
        return base.module
    (scratch / DSR_FILE).write_text(_PROBE, encoding="utf-8")
    return _loaded(request, asked, scratch).module


def _loaded(request: ModelRequest, asked: FitOptions, draft: Path) -> Subject:
    """The model as `build` would take it from the folder `draft`. Errors name the user's file, not the draft of it."""
    try:
        return require_module(find_source(dataclasses.replace(request, dsr=draft / DSR_FILE, registers=None)).load())
    except ExportError as error:
        said = error.message.replace(str(draft / DSR_FILE), str(asked.dsr))
        raise ExportError(said, hint=error.hint) from error


def _key(source: dict[str, Any], wish: Wish, asked: FitOptions, data: str, processes: int) -> dict[str, Any]:
    values = dataclasses.asdict(asked)
    for name in ("dsr", "out", "force", "licence", "data"):
        del values[name]
    kept = {name: bytes_digest(path.read_bytes()) for name, path in wish.kept.items()}
    return {
        **values,
        "base": source,
        "dsr": wish.text,
        "kept": kept,
        "data": data,
        "processes": processes,  # their slopes are added up in another order
        "tools": tool_versions(),
        "source": source_digest(),
        "threads": torch.get_num_threads(),  # sums are taken in another order
    }


def _digests(frozen: str, data: str, base: Subject, rows: Data | None) -> dict[str, Any]:
    loss = OBJECTIVES[type(rows)]
    weights: Mapping[str, Any] = base.provenance
    return {"base_sha256": frozen, "base_weights": dict(weights), "data_sha256": data, "objective": loss}


def _seen(found: Compared | None, headline: str) -> dict[str, Any]:
    if found is None:
        return {"headline": headline}
    before, after = (run.ratios for run in found.diagnosis.runs)
    rounded = [[float(f"{float(each.mean()):.6g}") for each in ratios] for ratios in (before, after)]
    gates = [
        {"block": layer, "time": float(f"{time:.6g}"), "tokens": use.tokens, "changed": use.changed}
        | {"gate": float(f"{use.strength / max(use.changed, 1):.6g}")}
        for (layer, time), use in sorted(found.gates.items())
    ]
    return {"headline": headline, "outliers_by_block": {"before": rounded[0], "after": rounded[1]}, "gates": gates}
