"""`python -m tests.comparisons.formats`: each low precision beside plain rounding to the same format, of the same FP32
graphs and calls. Every GEMM is in its first format: nothing is kept back for a budget."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from calibration.methods import METHODS, OUTLIER_AWARE, Recipe
from graphs.quantize.schemes import SCHEMES, Scheme
from tests.comparisons.calls import calibration_calls, held_out, sampler_of
from tests.comparisons.int8_peers import say
from tests.comparisons.markdown import figure, table
from tests.comparisons.models import MODELS, fp32_graph
from tests.comparisons.ours import measure, quantised
from tests.comparisons.scores import quality

PLAIN = METHODS["minmax"]
"""One range per tensor, and each weight to its nearest code."""


def without_branch(scheme: Scheme) -> Scheme:
    """The same format without what a branch takes."""
    plain = dataclasses.replace(scheme.tokens[0], rank=0)
    return dataclasses.replace(scheme, tokens=(plain, *scheme.tokens[1:]), smoothed=plain)


VARIANTS: dict[str, tuple[Scheme, Recipe]] = {
    "FP8, one range per tensor": (SCHEMES["fp8"], PLAIN),
    "FP8": (SCHEMES["fp8"], OUTLIER_AWARE),
    "INT4, nearest": (SCHEMES["int4"], PLAIN),
    "INT4": (SCHEMES["int4"], OUTLIER_AWARE),
    "NVFP4 weights, nearest": (SCHEMES["nvfp4-weights"], PLAIN),
    "NVFP4 weights": (SCHEMES["nvfp4-weights"], OUTLIER_AWARE),
    "NVFP4 without branch": (without_branch(SCHEMES["nvfp4"]), OUTLIER_AWARE),
    "NVFP4": (SCHEMES["nvfp4"], OUTLIER_AWARE),
}


def figures(name: str, folder: Path, *, steps: int | None, images: int) -> Iterator[str]:
    """The worst held-out row's SNR in dB of each variant, in their order."""
    graph = fp32_graph(name, folder)
    sampler = sampler_of(graph, steps)
    calls = calibration_calls(graph, sampler, images)
    held, stats = held_out(graph, sampler, calls), measure(graph, calls)
    for variant, (scheme, recipe) in VARIANTS.items():
        say(f"{name}: {variant}")
        path = quantised(graph, stats, recipe, folder / "quantised.onnx", scheme)
        yield figure(quality(graph, path, held, walks=False).snr_db)


def main(arguments: Sequence[str] | None = None) -> None:
    made = argparse.ArgumentParser(prog="python -m tests.comparisons.formats", description=__doc__)
    made.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    made.add_argument("--steps", type=int, default=8, help="grid points of every walk")
    made.add_argument("--images", type=int, default=4, help="calibration trajectories")
    options = made.parse_args(arguments)
    rows = []
    for name in options.models:
        with tempfile.TemporaryDirectory(prefix="dsr-formats-") as folder:
            rows.append([name, *figures(name, Path(folder), steps=options.steps, images=options.images)])
    print(table(("model", *VARIANTS), rows), flush=True)


if __name__ == "__main__":
    main()
