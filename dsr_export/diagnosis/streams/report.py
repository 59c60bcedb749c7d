"""What a pipeline's diagnosis comes to: `diagnosis.json`, `dsr.toml`, and the verdict in words."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from dsr_export.diagnosis.declaration import group_lines
from dsr_export.diagnosis.record import finite, head, rounded
from dsr_export.diagnosis.streams.diagnosis import StreamDiagnosis, StreamRun, sites_by_stream
from dsr_export.diagnosis.streams.sites import Site
from dsr_export.diagnosis.verdicts import build_command
from dsr_export.html.axes import percent, spans
from dsr_export.html.page import Verdict

JSON = dict[str, Any]
_ONE_LINE = dict.fromkeys(range(32), " ")  # a file's name may hold anything
WHOSE = {"image": "the image's tokens", "text": "the prompt's tokens"}


def stream_record(found: StreamDiagnosis, verdict: Verdict) -> JSON:
    """JSON values of the whole diagnosis; see `diagnosis.record`."""
    return {
        **head(found.subject, "pipeline", verdict, dataclasses.asdict(found.walked)),
        "outliers": bool(found.outlier_sites),
        "grid": list(found.grid),
        "times": [rounded(time) for _, time in sorted(found.off.measured.times.items())],
        "sites": [_site(found, site) for site in found.limits],
        "runs": [_run(run) for run in found.runs],
        "replace": [{**dataclasses.asdict(group), "layers": list(group.layers)} for group in found.replace],
    }


def stream_toml(found: StreamDiagnosis, register_file: Path | None, folder: Path) -> str | None:
    """One `[[denoiser.replace]]` for each proposed site, as seen from `folder`; None where there is none."""
    if not found.replace:
        return None
    walked, spec = found.walked, found.subject.dsr.denoiser
    lines = [
        f"# Proposed by `dsr-export diagnose` for {found.subject.name}:",
        f"# {str(walked).translate(_ONE_LINE)}.",
        "# Thresholds are multiples of the median norm of the image's own tokens of that stream.",
    ]
    if spec.kind == "diffusion" and register_file is not None:
        file = Path(os.path.relpath(register_file, folder)).as_posix()
        lines += ["[denoiser]", 'kind = "diffusion"', f"registers = {spec.registers}", f"start = {spec.start}"]
        lines += [f"register_file = {json.dumps(file)}"]
    for group in found.replace:
        site = group.layers[0], group.stream
        lines += ["", "[[denoiser.replace]]", f"# {roles_in_words(found, site)}", *group_lines(group)]
    return "\n".join(lines) + "\n"


def stream_verdict(found: StreamDiagnosis, words: tuple[str, ...], dsr: Path) -> Verdict:
    """For the page and the summary; `dsr` is where the declaration is written."""
    norms, sites = found.off.measured.norms, found.outlier_sites
    if not sites:
        largest = max(each.largest for each in norms.values())
        return Verdict(
            tone="good",
            headline="No outlier tokens: there is nothing to replace.",
            details=(f"The largest token norm is {largest:.1f} times its median; every site is one population.",),
            command=build_command(words, None),
            why="Build it as it is:",
        )
    largest = max(norms[site].largest for site in sites)
    times = "with no finite norm" if not np.isfinite(largest) else f"up to {largest:.0f} times the median norm"
    layers_of = sites_by_stream(sites)
    details = [
        f"Among {WHOSE[stream]} they are there behind block{'s' if len(layers) > 1 else ''} {spans(layers)}."
        for stream, layers in layers_of.items()
    ]
    worst = {stream: max(layers, key=lambda i: _share(found, (i, stream))) for stream, layers in layers_of.items()}
    details += [f"Most behind block {i}: {roles_in_words(found, (i, stream))}." for stream, i in worst.items()]
    details += [_effect(run) for run in found.runs[1:]]
    left = found.run("proposed")
    return Verdict(
        tone="bad" if left is None or _left(left) else "warn",
        headline=f"Outlier tokens {times} at {len(sites)} of {len(norms)} sites.",
        details=tuple(details),
        command=build_command(words, dsr) if found.replace else None,
        why="Build it with the proposed replacement:",
    )


def roles_in_words(found: StreamDiagnosis, site: Site) -> str:
    """`8.3 % of the text tokens: 92 % of these padding, 8 % other`."""
    counts = {role: above for role, (above, _) in found.role_counts(site).items() if above}
    total = max(sum(counts.values()), 1)
    parts = [f"{percent(above / total)} of these {role}" for role, above in counts.items()]
    return f"{percent(_share(found, site))} of the {site[1]} tokens: {', '.join(parts)}"


def _share(found: StreamDiagnosis, site: Site) -> float:
    pairs = found.role_counts(site).values()
    return sum(above for above, _ in pairs) / max(sum(tokens for _, tokens in pairs), 1)


def _left(run: StreamRun) -> list[Site]:
    return [site for site, ratios in run.ratios.items() if ratios.any()]


def _effect(run: StreamRun) -> str:
    whose = "The model's own sites" if run.name == "own" else "The proposed sites"
    left = [f"{WHOSE[stream]} behind {spans(layers)}" for stream, layers in sites_by_stream(_left(run)).items()]
    return f"{whose} leave none." if not left else f"{whose} leave outliers among {' and '.join(left)}."


def _site(found: StreamDiagnosis, site: Site) -> JSON:
    (layer, stream), limit, norms = site, found.limits[site], found.off.measured.norms[site]
    counts = found.role_counts(site)
    total = max(sum(above for above, _ in counts.values()), 1)
    return {
        "layer": layer,
        "stream": stream,
        "block": found.blocks[layer].name,
        "threshold": limit.value if limit else None,
        "found_by": limit.found if limit else None,
        "largest": finite(norms.largest),
        "roles": {
            role: {"tokens": tokens, "outliers": above, "share": rounded(above / total)}
            for role, (above, tokens) in counts.items()
        },
    }


def _run(run: StreamRun) -> JSON:
    names = {site: str(site[0]) if site[1] == "image" else f"{site[0]}_text" for site in run.ratios}
    norms = run.measured.norms
    return {
        "name": run.name,
        "ratios": {names[site]: [rounded(value) for value in ratios] for site, ratios in run.ratios.items()},
        "replaced": {
            names[site]: rounded(each.replaced / max(int(each.tokens().sum()), 1))
            for site, each in norms.items()
            if each.replaced
        },
    }
