"""`python -m tests.comparisons.int8_ablation`: what each ingredient of the outlier-aware recipe is worth, in dB."""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from calibration.methods import METHODS, OUTLIER_AWARE, Recipe
from tests.comparisons.calls import calibration_calls, held_out, sampler_of
from tests.comparisons.int8_peers import say
from tests.comparisons.markdown import figure, table
from tests.comparisons.models import MODELS, fp32_graph
from tests.comparisons.ours import measure, quantised
from tests.comparisons.scores import Quality, quality

INGREDIENTS = ("smoothing", "rows", "rounding", "bias_correction")
RECIPES: Mapping[str, Recipe] = {
    "outlier-aware": OUTLIER_AWARE,
    **{f"without {each}": dataclasses.replace(OUTLIER_AWARE, **{each: False}) for each in INGREDIENTS},
    "none: least squared error per tensor": METHODS["mse"],
    "none: largest magnitude per tensor": METHODS["minmax"],
}
"""The last two are blind to token roles: one range for all tokens, nearest weights."""


def run(name: str, folder: Path, steps: int, images: int) -> dict[str, Quality]:
    """Recipe -> SNR on held-out rows of the model called `name`."""
    say(f"{name}: trace and statistics")
    graph = fp32_graph(name, folder)
    sampler = sampler_of(graph, steps)
    calls = calibration_calls(graph, sampler, images)
    held, stats = held_out(graph, sampler, calls), measure(graph, calls)
    found = {}
    for recipe_name, recipe in RECIPES.items():
        say(f"{name}: {recipe_name}")
        made = quantised(graph, stats, recipe, folder / "int8.onnx")
        found[recipe_name] = quality(graph, made, held, walks=False)
    return found


def as_table(found: Mapping[str, Mapping[str, Quality]]) -> str:
    """Recipes down, models across: worst row / median row."""
    rows = [
        [recipe, *(f"{figure(each[recipe].snr_db)} / {figure(each[recipe].median_snr_db)}" for each in found.values())]
        for recipe in RECIPES
    ]
    return table(("recipe", *found), rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.comparisons.int8_ablation", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=["digits", "digits-outliers"])
    parser.add_argument("--steps", type=int, default=17, help="grid points of every walk")
    parser.add_argument("--images", type=int, default=4, help="calibration trajectories")
    parser.add_argument("--json", type=Path, help="the figures as JSON, too")
    options = parser.parse_args(arguments)
    found = {}
    for name in options.models:
        with tempfile.TemporaryDirectory(prefix="dsr-ablation-") as folder:
            found[name] = run(name, Path(folder), options.steps, options.images)
    print(as_table(found))
    if options.json:
        plain = {model: {recipe: dataclasses.asdict(q) for recipe, q in each.items()} for model, each in found.items()}
        options.json.write_text(json.dumps(plain, indent=1))


if __name__ == "__main__":
    main()
