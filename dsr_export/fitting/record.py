"""What a training leaves beside the tensors: `fit.json`, and a model card for people."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from dsr_export.fitting.request import FitOptions
from dsr_export.fitting.wish import DSR_FILE, Wish
from dsr_export.readable import readable
from dsr_export.storage.made_with import tool_versions
from dsr_export.version import __version__

RECORD, CARD, PAGE, KIND = "fit.json", "README.md", "index.html", "dsr-export-fit"
Facts = dict[str, Any]


def record(
    model: str, command: str, wish: Wish, asked: FitOptions, digests: Facts, losses: list[float], seen: Facts
) -> Facts:
    """JSON values. `digests` are those of base and data, `seen` what was measured before and after."""
    recipe = dataclasses.asdict(asked)
    for name in ("dsr", "out", "force"):
        del recipe[name]
    files = {
        file.name: {"registers": file.count, "gate": file.gate, "layers": list(file.layers)} for file in wish.files
    }
    return {
        "schema_version": 1,
        "kind": KIND,
        "tool_version": __version__,
        "versions": tool_versions(),
        "model": model,
        "build": command,
        "files": files,
        "recipe": recipe,
        **digests,
        "losses": [float(f"{value:.6g}") for value in losses],
        **seen,
    }


def card(made: Facts) -> str:
    """`README.md` of the folder."""
    recipe, losses = made["recipe"], made["losses"]
    lines = [
        f"# Registers for {made['model']}",
        "",
        f"Trained by `dsr-export fit` {made['tool_version']} on frozen weights: sha256 of the base's tensors is "
        f"`{made['base_sha256'][:16]}...`, before and after.",
        "",
        "```sh",
        readable(made["build"]),
        "```",
        "",
        "| file | holds |",
        "|---|---|",
        f"| `{DSR_FILE}` | the declaration |",
        *(f"| `{name}` | {_what(each)} |" for name, each in made["files"].items()),
        "",
        f"{made['headline']}",
        "",
        "## Recipe",
        "",
        f"- objective: {made['objective']}",
        f"- data: {readable(recipe['data'])} (sha256 `{made['data_sha256'][:16]}...`)",
        f"- licence of the data, as stated by whoever trained: {readable(recipe['licence'] or 'not stated')}",
        f"- {recipe['steps']} steps of {recipe['batch']}, learning rate {recipe['rate']:g}, weight of the norm term "
        f"{recipe['norm_weight']:g}, seed {recipe['seed']}",
        f"- loss: {_mean(losses[:20]):.4g} at first, {_mean(losses[-20:]):.4g} at last (means of 20 steps)",
    ]
    return "\n".join(lines) + "\n"


def as_text(made: Facts) -> str:
    """Of `fit.json`."""
    return json.dumps(made, sort_keys=True, indent=1) + "\n"


def _what(file: Facts) -> str:
    kind = "registers and a gate" if file["gate"] else "registers"
    where = f", behind blocks {', '.join(map(str, file['layers']))}" if file["layers"] else ", inserted"
    return f"{file['registers']} {kind}{where}"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
