"""`compile --keep-if-faster`: a lower precision is worth its error only where it is faster, on the device itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dsr_export.backends.cuda.replay import Graphs
from dsr_export.backends.opening import new_engine_runner, runs_here
from dsr_export.benchmark.contestants import feeds
from dsr_export.benchmark.gpu_facts import gpu_facts
from dsr_export.benchmark.gpu_race import GpuContestant, gpu_race
from dsr_export.bundle.manifest import Manifest
from dsr_export.bundle.reader import Bundle
from dsr_export.errors import ExportError
from dsr_export.progress import Reporter
from dsr_export.recompiling.new_contents import Compiled
from graphs.precisions import PRECISIONS, Precision
from graphs.targets import Target

NEEDED = 1.02
"""Times as fast: below it is what two runs of one engine may differ by."""
ROUNDS, WARMUP = 100, 10
_LATER = ("git_revision", "compiled")
Candidate = tuple[Bundle, Compiled]
"""A bundle, and the engine that was just made of it."""


def check_comparable(lower: Bundle, wider: Bundle, where: Target) -> None:
    """Raises ExportError where there is nothing to choose between, or no GPU to measure on."""
    if not runs_here(where):
        raise ExportError(
            f"--keep-if-faster measures, and no GPU here runs an engine for '{where.name}'",
            hint="run the same command on the device, or compile without --keep-if-faster",
        )
    mine, other = lower.manifest, wider.manifest
    if _narrowness(mine.precision) <= _narrowness(other.precision):
        raise ExportError(
            f"{lower.path} is {mine.precision}, which is not lower than the {other.precision} of {wider.path}",
            hint="give the bundle of lower precision first, and the one it must beat to --keep-if-faster",
        )
    differ = [word for word, a, b in _same(mine, other) if a != b]
    if differ:
        raise ExportError(
            f"{lower.path} and {wider.path} are of two models: they differ in {', '.join(differ)}",
            hint="build both from the same model, with the same --batch",
        )


def _narrowness(precision: Precision) -> int:
    """0 for FP32, 1 for half types, 2 for integers."""
    return PRECISIONS[precision].narrow + PRECISIONS[precision].quantized


def _same(mine: Manifest, other: Manifest) -> list[tuple[str, Any, Any]]:
    return [
        ("name or shape", mine.model, other.model),
        ("DSR", mine.dsr, other.dsr),
        ("inputs", mine.inputs, other.inputs),
        ("outputs", mine.outputs, other.outputs),
        ("batch sizes", mine.batch, other.batch),
        ("weights", _origin(mine), _origin(other)),
    ]


def _origin(manifest: Manifest) -> dict[str, Any]:
    """Where the weights came from: not what built the bundle, and not what was compiled since."""
    return {key: value for key, value in manifest.provenance.items() if key not in _LATER}


def choose(lower: Candidate, wider: Candidate, where: Target, say: Reporter) -> Candidate:
    """The lower precision where its numbers are right and it is `NEEDED` times as fast, else the wider one.

    `Compiled.kept` of what is returned says what was measured of both.
    """
    speed = _measured(lower, wider, where, say)
    failed = not lower[1].passed
    bundle, compiled = lower if not failed and speed["speedup"] >= NEEDED else wider
    precisions = {"lower": lower[0].manifest.precision, "wider": wider[0].manifest.precision}
    problem = f"the {precisions['lower']} engine failed its parity" if failed else None
    told = {"kept": bundle.manifest.precision, **precisions, "needed": NEEDED, "problem": problem, **speed}
    return bundle, replace(compiled, kept=told)


def _measured(lower: Candidate, wider: Candidate, where: Target, say: Reporter) -> dict[str, Any]:
    """Both engines in turns within the device, each launched as it would be: `speedup` is the median of the ratios."""
    manifest = lower[0].manifest
    entrants = [_entrant(name, *each, where) for name, each in (("lower", lower), ("wider", wider))]
    inputs = feeds(manifest.inputs, manifest.batch.opt)
    with say.stage(f"speed ({where.name})") as bar:
        timings, _ = gpu_race(entrants, inputs, rounds=ROUNDS, warmup=WARMUP, progress=bar)
    times = {each.name: each for each in timings if each.place == "device"}
    slow = times["wider"]  # its ratios are to the first, in the same round
    return {
        "speedup": slow.ratio,
        "speedup_low": slow.ratio_low,
        "speedup_high": slow.ratio_high,
        "lower_ms": times["lower"].median_ms,
        "wider_ms": slow.median_ms,
        "batch": manifest.batch.opt,
        "rounds": ROUNDS,
        "gpu": gpu_facts(needed=True),
    }


def _entrant(name: str, bundle: Bundle, compiled: Compiled, where: Target) -> GpuContestant:
    def opened(graphs: Graphs) -> Any:
        plan, facts = bytes(compiled.engine.plan), compiled.engine.facts
        return new_engine_runner(plan, where, facts, bundle.manifest.inputs, graphs=graphs)

    return GpuContestant(name=name, open=opened, graphs=("auto",))
