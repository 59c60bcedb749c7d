"""Writes what was found as files that `--dsr` reads: `dsr.toml`, and for encoders `neurons.json`."""

from __future__ import annotations

import json
import os
from pathlib import Path

from dsr_export.diagnosis.denoiser import DenoiserDiagnosis
from dsr_export.diagnosis.encoder import EncoderDiagnosis
from dsr_export.diagnosis.neurons import Table
from dsr_export.html.axes import percent
from dsr_export.spec import ReplaceSpec

NEURONS_FILE = "neurons.json"


def denoiser_toml(found: DenoiserDiagnosis) -> str | None:
    """One `[[denoiser.replace]]` for each proposed layer; None where nothing is to be replaced."""
    if not found.replace:
        return None
    walked, spec = found.settings, found.subject.dsr.denoiser
    lines = [
        f"# Proposed by `dsr-export diagnose` for {found.subject.name}: {walked.images} images,",
        f"# {walked.steps} time steps, seed {walked.seed}. Thresholds are multiples of the image's median norm.",
    ]
    if spec.kind == "diffusion":
        lines += ["[denoiser]", 'kind = "diffusion"', f"registers = {spec.registers}", f"start = {spec.start}"]
    proposed = found.run("proposed")
    assert proposed is not None
    for group in found.replace:
        fired = sum(proposed.measured.replaced.get(layer, 0) for layer in group.layers)
        gap = all(limit is not None and limit.found == "gap" for limit in (found.limits[i] for i in group.layers))
        place = "in a gap between ordinary tokens and outliers" if gap else "where outliers shade into ordinary tokens"
        lines += [
            "",
            "[[denoiser.replace]]",
            f"# replaced {percent(fired / max(proposed.measured.tokens, 1))} of the tokens; the threshold lies {place}",
            *group_lines(group),
        ]
    return "\n".join(lines) + "\n"


def group_lines(group: ReplaceSpec) -> list[str]:
    """The keys of one `[[denoiser.replace]]`."""
    return [
        f"layers = {list(group.layers)}",
        f'rule = "{group.rule}"',
        f"threshold = {group.threshold}",
        f"rounds = {group.rounds}",
        f'choice = "{group.choice}"',
        *([f"registers = {json.dumps(group.registers)}"] if group.choice in ("nearest", "gate") else []),
        *([f'stream = "{group.stream}"'] if group.stream != "image" else []),
    ]


def encoder_toml(found: EncoderDiagnosis, neurons: Path, folder: Path) -> str | None:
    """A test-time register for the neurons in the file `neurons`, as seen from `folder`; None where there are none."""
    if not found.table:
        return None
    relative = Path(os.path.relpath(neurons, folder)).as_posix()
    lines = [
        f"# Proposed by `dsr-export diagnose` for {found.subject.name}: {found.before.images} images,",
        f"# {len(found.rounds)} rounds, norms over {found.settings.threshold:g} behind layer {found.detect_layer}.",
        "[encoder]",
        'kind = "test-time"',
        "registers = 1",
        "scale = 1.0",
        'normal_values = "zero"',
        f"neurons = {json.dumps(relative)}",
    ]
    return "\n".join(lines) + "\n"


def neurons_json(table: Table) -> str:
    """The table as `read_neurons` takes it."""
    return json.dumps({str(layer): list(neurons) for layer, neurons in table.items()}) + "\n"
