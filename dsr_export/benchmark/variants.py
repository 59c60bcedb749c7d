"""One model as several graphs for a comparison: the exporter's raw trace, ours without run-time DSR, ours with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torch import nn

from dsr_export.benchmark.race import Contestant
from dsr_export.registers import RecursiveReplacement, TestTimeRegisters
from dsr_export.subject import Subject
from graphs.artifacts import TracedModel, TypedModel
from graphs.files import RUNTIME_GRAPH
from graphs.forms import take_form
from graphs.lowering import lower, optimize


def model_variants(subject: Subject, folder: Path) -> list[Contestant]:
    """Writes the graphs of `subject` (FP32) to `folder`, the raw trace first.

    `raw` and `plain` compute without detection and replacement or neuron shifts, but with the same registers, so that
    `dsr` against `plain` is what the run-time DSR parts cost.
    """
    with switched_off(subject.module):
        raw = TracedModel(path=subject.trace(folder / "raw.onnx").path, sites={})
        plain = optimized(raw, folder, "plain")
    contestants = [Contestant("raw", raw.path, subject.inputs), Contestant("plain", plain, subject.inputs)]
    if any(subject.dsr.sites().values()):
        traced = subject.trace(folder / "symbolic.onnx")
        contestants.append(Contestant("dsr", optimized(traced, folder, "dsr"), subject.inputs))
    return contestants


def as_run(ours: Contestant, folder: Path) -> Contestant:
    """The graph of `ours` (FP32) as ONNX Runtime runs it, in a folder of its own in `folder`."""
    inside = folder / ours.name
    inside.mkdir()
    take_form(TypedModel(path=ours.model, precision="fp32"), inside / "model.onnx", "onnxruntime")
    own = inside / RUNTIME_GRAPH
    return replace(ours, model=own if own.exists() else inside / "model.onnx")


@contextmanager
def switched_off(module: nn.Module) -> Iterator[None]:
    """`module` without its run-time DSR parts, within the block."""
    parts = [part for part in module.modules() if isinstance(part, RecursiveReplacement | TestTimeRegisters)]
    before = [part.enabled for part in parts]
    for part in parts:
        part.enabled = False
    try:
        yield
    finally:
        for part, enabled in zip(parts, before, strict=True):
            part.enabled = enabled


def optimized(traced: TracedModel, folder: Path, name: str) -> Path:
    """Our graph of a trace, as `<name>.onnx` in `folder`."""
    lowered, _ = lower(traced, folder / f"{name}-lowered.onnx")
    return optimize(lowered, folder / f"{name}.onnx")[0].path
