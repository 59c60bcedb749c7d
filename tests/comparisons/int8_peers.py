"""`python -m tests.comparisons.int8_peers`: our INT8 beside other quantisers', of the same FP32 graphs and calls.

A peer that fails is listed with its reason.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from calibration.methods import METHODS
from dsr_export.benchmark.race import Timing
from tests.comparisons.calls import HeldOut, calibration_calls, held_out, sampler_of, save_calls
from tests.comparisons.markdown import figure, table
from tests.comparisons.models import MODELS, Graph, fp32_graph
from tests.comparisons.ours import measure, quantised
from tests.comparisons.peers import all_peers
from tests.comparisons.scores import Quality, megabytes, quality, timings

OURS = ("outlier-aware", "minmax")
HEADER = ("quantiser", "SNR, worst row", "SNR, median row", "final sample, PSNR", "latency / FP32", "MB")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One quantiser on one model; `problem` says why there are no figures."""

    model: str
    quantiser: str
    quality: Quality | None = None
    timing: Timing | None = None
    megabytes: float | None = None
    problem: str | None = None


def compared(
    name: str,
    graph: Graph,
    makers: Mapping[str, Callable[[Path], Any]],
    held: HeldOut,
    folder: Path,
    *,
    rounds: int,
    threads: int,
) -> list[Entry]:
    """Makes, judges and times one graph for each of `makers`."""
    found: dict[str, Entry] = {}
    for i, (quantiser, make) in enumerate(makers.items()):
        say(f"{name}: {quantiser}")
        found[quantiser] = _judged(name, quantiser, graph, make, held, folder / f"{i}.onnx")
    paths = {quantiser: folder / f"{i}.onnx" for i, quantiser in enumerate(makers)}
    able = {quantiser: path for quantiser, path in paths.items() if found[quantiser].problem is None}
    measured = timings(graph, able, held, rounds=rounds, threads=threads) if able else {}
    return [dataclasses.replace(entry, timing=measured.get(key)) for key, entry in found.items()]


def _judged(name: str, quantiser: str, graph: Graph, make: Callable[[Path], Any], held: HeldOut, path: Path) -> Entry:
    try:
        make(path)
        figures = quality(graph, path, held)
    except Exception as error:  # whatever a peer raises belongs into the table
        reason = " ".join(str(error).split()) or "no message"
        return Entry(model=name, quantiser=quantiser, problem=f"{type(error).__name__}: {reason[:200]}")
    return Entry(model=name, quantiser=quantiser, quality=figures, megabytes=megabytes(path))


def run(name: str, folder: Path, options: argparse.Namespace) -> list[Entry]:
    """All quantisers on the model called `name`."""
    say(f"{name}: trace, calibration calls, held-out walk")
    graph = fp32_graph(name, folder)
    sampler = sampler_of(graph, options.steps)
    calls = calibration_calls(graph, sampler, options.images)
    held = held_out(graph, sampler, calls)
    rows = save_calls(calls, folder / "rows.npz")
    say(f"{name}: statistics of {sum(len(call.samples) for call in calls)} rows")
    stats = measure(graph, calls)
    makers = {f"dsr-export {method}": partial(quantised, graph, stats, METHODS[method]) for method in OURS}
    peers = {peer: partial(make, graph.path, rows) for peer, make in all_peers(options.peer_python).items()}
    return compared(name, graph, {**makers, **peers}, held, folder, rounds=options.rounds, threads=options.threads)


def as_table(entries: Sequence[Entry]) -> str:
    """Markdown; a failure takes the place of the figures."""
    return table(HEADER, [_row(entry) for entry in entries])


def _row(entry: Entry) -> list[str]:
    if entry.quality is None:
        return [entry.quantiser, f"fails: {entry.problem}", *["-"] * (len(HEADER) - 2)]
    ratio = None if entry.timing is None else entry.timing.ratio
    decibels = (entry.quality.snr_db, entry.quality.median_snr_db, entry.quality.psnr_db)
    return [entry.quantiser, *(figure(db) for db in decibels), figure(ratio, ".2f"), figure(entry.megabytes)]


def say(text: str) -> None:
    """Progress goes to stderr; stdout has the tables and nothing else."""
    print(text, file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m tests.comparisons.int8_peers", description=__doc__)
    made.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    made.add_argument("--peer-python", default=sys.executable, help="interpreter with nvidia-modelopt[onnx]")
    made.add_argument("--steps", type=int, help="grid points of every walk [default: the sampler's]")
    made.add_argument("--images", type=int, default=4, help="calibration trajectories")
    made.add_argument("--rounds", type=int, default=40, help="timed rounds")
    made.add_argument("--threads", type=int, default=1, help="of ONNX Runtime, where it is timed")
    made.add_argument("--json", type=Path, help="the figures as JSON, too")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    entries: list[Entry] = []
    for name in options.models:
        with tempfile.TemporaryDirectory(prefix="dsr-peers-") as folder:
            found = run(name, Path(folder), options)
        print(f"\n{name}\n\n{as_table(found)}", flush=True)
        entries += found
    if options.json:
        options.json.write_text(json.dumps([dataclasses.asdict(entry) for entry in entries], indent=1))


if __name__ == "__main__":
    main()
