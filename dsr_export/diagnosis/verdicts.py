"""What a diagnosis comes to, in words: how many outliers, where, and what to do."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np

from dsr_export.diagnosis.denoiser import DenoiserDiagnosis, Run
from dsr_export.diagnosis.encoder import EncoderDiagnosis
from dsr_export.html.axes import percent, spans
from dsr_export.html.page import Verdict

DSR_FILE = "dsr.toml"


def build_command(words: tuple[str, ...], dsr: Path | None) -> str:
    """`dsr-export build MODEL ...` as one types it. `words` name the model and its weights."""
    return shlex.join(["dsr-export", "build", *words, *(["--dsr", str(dsr)] if dsr else [])])


def denoiser_verdict(found: DenoiserDiagnosis, words: tuple[str, ...], dsr: Path) -> Verdict:
    """For the page and the summary; `dsr` is where the declaration is written."""
    own = found.run("own")
    if not found.outlier_layers:
        largest = float(found.off.measured.norms.largest.max())
        details = [f"The largest token norm is {largest:.1f} times its image's median; every layer is one population."]
        if own is not None:
            details.append(f"The model's own sites replace {_replaced(found, own)} of the tokens that pass them.")
        return Verdict(
            tone="good",
            headline="No outlier tokens: there is nothing to replace.",
            details=tuple(details),
            command=build_command(words, None),
            why="Build it as it is:",
        )
    proposed = found.run("proposed")
    details = [_where(found)]
    if own is not None:
        details.append(_effect(own, "The model's own sites"))
    if proposed is not None:
        details.append(_effect(proposed, f"The proposed {_sites(proposed)}"))
    left = proposed is None or bool(proposed.ratios.any())
    return Verdict(
        tone="bad" if left else "warn",
        headline=_headline(found),
        details=tuple(details),
        command=build_command(words, dsr) if found.replace else None,
        why="Build it with the proposed replacement:",
    )


def encoder_verdict(found: EncoderDiagnosis, words: tuple[str, ...], dsr: Path, *, stabilises: bool) -> Verdict:
    """As `denoiser_verdict`; `stabilises` says whether test-time registers can be put into this model."""
    before, limit = found.before, found.settings.threshold
    largest = float(before.stats.largest[found.detect_layer])
    if not before.outliers:
        return Verdict(
            tone="good",
            headline=f"No outlier tokens in {before.images} images: none exceeds a norm of {limit:g}.",
            details=(f"The largest at layer {found.detect_layer} is {largest:.4g}; --threshold moves the limit.",),
            command=build_command(words, None),
            why="Build it as it is:",
        )
    headline = (
        f"{before.outliers / before.images:.1f} outlier tokens per image behind layer {found.detect_layer}, "
        f"in {before.images_with_outliers} of {before.images} images."
    )
    details = [f"Their norms exceed {limit:g}; the largest is {largest:.4g}."]
    if found.declared is not None:
        details.append(f"With the declared registers {found.declared.outliers or 'no'} outlier tokens remain.")
    if not found.table:
        details.append("No neuron up to the highest layer looked at lights up on them alone: try --highest-layer.")
        return Verdict(tone="bad", headline=headline, details=tuple(details))
    count = sum(len(neurons) for neurons in found.table.values())
    layers = f"layer{'s' if len(found.table) > 1 else ''} {spans(list(found.table))}"
    details.append(f"{count} register neuron{'s light' if count > 1 else ' lights'} up on them, in {layers}.")
    if not stabilises:
        details.append(
            "Test-time registers can't be put into this module from outside; neurons.json lists the neurons."
        )
    if found.after is not None:
        left = found.after.outliers
        moved = "these" if count > 1 else "it"
        details.append(f"With {moved} moved onto one test-time register, {left or 'no'} outlier tokens remain.")
    return Verdict(
        tone="warn" if found.after is not None and not found.after.outliers else "bad",
        headline=headline,
        details=tuple(details),
        command=build_command(words, dsr) if stabilises else None,
        why="Build it with a test-time register:",
    )


def _headline(found: DenoiserDiagnosis) -> str:
    layers = found.outlier_layers
    largest = float(found.off.measured.norms.largest[layers].max())
    times = "with no finite norm" if not np.isfinite(largest) else f"up to {largest:.0f} times the median norm"
    most = max(len(found.outlier_patches(found.off, layer)) for layer in layers)
    ratio = float(found.off.ratios[layers].max())
    return (
        f"Outlier tokens at {most} of {found.patches} positions, {times}: "
        f"up to {percent(ratio)} of the tokens of a layer."
    )


def _where(found: DenoiserDiagnosis) -> str:
    depth = len(found.limits)
    times = found.off.ratios.max(axis=0) > 0
    when = "at every time step" if times.all() else f"at {int(times.sum())} of {len(times)} time steps"
    return f"Without replacement they are there behind {_blocks(found.outlier_layers)} of {depth}, {when}."


def _effect(run: Run, what: str) -> str:
    left = np.flatnonzero(run.ratios.max(axis=1))
    if not len(left):
        return f"{what} leave{'s' if what.endswith('site') or ' site ' in what else ''} none."
    verb = "leaves" if " site " in what else "leave"
    return f"{what} {verb} outliers behind {_blocks([int(layer) for layer in left])}."


def _sites(run: Run) -> str:
    return f"site{'s' if len(run.sites) > 1 else ''} behind {_blocks(list(run.sites))}"


def _blocks(layers: list[int]) -> str:
    return f"block{'s' if len(layers) > 1 else ''} {spans(layers)}"


def _replaced(found: DenoiserDiagnosis, run: Run) -> str:
    passed = run.measured.tokens * max(len(run.sites), 1)
    return percent(sum(run.measured.replaced.values()) / max(passed, 1))
