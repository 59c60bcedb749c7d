"""`python -m tests.comparisons.fp8_peers`: `--precision fp8` builds as they come beside ModelOpt's FP8, on the same
held-out rows.

Ours are what the engine gets, budget, FP16 and all. A peer that fails is listed with its reason.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dsr_export.bundle.reader import Bundle
from dsr_export.config import BatchRange, ExportConfig
from dsr_export.declarations.int8_options import Int8Options
from dsr_export.pipeline import export
from tests.comparisons.calls import HeldOut, calibration_calls, held_out, sampler_of, save_calls
from tests.comparisons.int8_peers import say
from tests.comparisons.markdown import figure, table
from tests.comparisons.models import MODELS, Graph, fp32_graph, request
from tests.comparisons.peers import METHODS, modelopt_fp8, modelopt_torch_fp8
from tests.comparisons.scores import Quality, quality, runner_quality, scored

HEADER = ("quantiser", "SNR, worst row", "SNR, median row", "final sample, PSNR", "GEMMs of ours")


@dataclass(frozen=True, kw_only=True)
class Held:
    """What all quantisers of a model get: its FP32 `graph`, `rows` of calibration in a file, and the held-out cases."""

    name: str
    graph: Graph
    rows: Path
    cases: HeldOut
    folder: Path


def held(name: str, folder: Path, *, steps: int, images: int) -> Held:
    """Of the model called `name`; calibration as a build with so many steps and images walks it."""
    graph = fp32_graph(name, folder)
    sampler = sampler_of(graph, steps)
    calls = calibration_calls(graph, sampler, images)
    cases = held_out(graph, sampler, calls)
    return Held(name=name, graph=graph, rows=save_calls(calls, folder / "rows.npz"), cases=cases, folder=folder)


def built(name: str, folder: Path, *, steps: int, images: int, target: str, budget_db: float | None = None) -> Bundle:
    """A build in FP8 of the model called `name`, for `target`."""
    config = ExportConfig(
        **request(name, folder),
        precision="fp8",
        int8=Int8Options(steps=steps, images=images, budget_db=budget_db),
        targets=(target,),
        batch=BatchRange(1, 2, 8),
        trajectory_steps=4,
        out=folder / "built.dsr",
    )
    return export(config)


def bundle_quality(bundle: Bundle, cases: HeldOut) -> Quality:
    """As every check of a bundle runs it: node by node, each half tensor rounded where it is made."""
    with bundle.runner("onnxruntime") as runner:
        return runner_quality(runner, cases)


def formats(bundle: Bundle) -> str:
    """How many GEMMs got which format."""
    count = Counter(each["precision"] for each in bundle.report()["fp8"]["gemms"])
    return ", ".join(f"{number} {form.upper()}" for form, number in sorted(count.items()))


def peers(known: Held, python: str) -> Mapping[str, Callable[[], Quality]]:
    """Every peer by name."""
    torch = {"ModelOpt FP8_DEFAULT_CFG": True, "ModelOpt FP8_DEFAULT_CFG, blocks' GEMMs of tokens": False}
    return {
        **{name: partial(_torch_quality, known, python, own) for name, own in torch.items()},
        **{f"ModelOpt ONNX fp8, {method}": partial(_onnx_quality, known, python, method) for method in METHODS},
    }


def _torch_quality(known: Held, python: str, own: bool) -> Quality:
    made = modelopt_torch_fp8(known.name, known.rows, known.cases, known.folder, python=python, own=own)
    return scored(made, known.cases)


def _onnx_quality(known: Held, python: str, method: str) -> Quality:
    path = known.folder / f"modelopt-{method}.onnx"
    modelopt_fp8(known.graph.path, known.rows, path, python=python, method=method)
    return quality(known.graph, path, known.cases)


def rows_of(name: str, folder: Path, options: argparse.Namespace) -> list[list[str]]:
    """One for our build, and one for each peer."""
    say(f"{name}: build")
    bundle = built(name, folder, steps=options.steps, images=options.images, target=options.target)
    known = held(name, folder, steps=options.steps, images=options.images)
    found = [["dsr-export build --precision fp8", *_figures(bundle_quality(bundle, known.cases)), formats(bundle)]]
    for peer, measure in peers(known, options.peer_python).items():
        say(f"{name}: {peer}")
        try:
            found.append([peer, *_figures(measure()), "-"])
        except Exception as error:  # whatever a peer raises belongs into the table
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            found.append([peer, f"fails: {reason}", "-", "-", "-"])
    return found


def _figures(found: Quality) -> list[str]:
    return [figure(each) for each in (found.snr_db, found.median_snr_db, found.psnr_db)]


def main(arguments: Sequence[str] | None = None) -> None:
    made = argparse.ArgumentParser(prog="python -m tests.comparisons.fp8_peers", description=__doc__)
    made.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    made.add_argument("--peer-python", default=sys.executable, help="interpreter with nvidia-modelopt[onnx]")
    made.add_argument("--steps", type=int, default=8, help="grid points of every walk")
    made.add_argument("--images", type=int, default=4, help="calibration trajectories")
    made.add_argument("--target", default="rtx:sm89", help="of our build")
    options = made.parse_args(arguments)
    for name in options.models:
        with tempfile.TemporaryDirectory(prefix="dsr-fp8-peers-") as folder:
            found = rows_of(name, Path(folder), options)
        print(f"\n{name}\n\n{table(HEADER, found)}", flush=True)


if __name__ == "__main__":
    main()
