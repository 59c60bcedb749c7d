"""The same architecture without registers: what they cost is in every kernel, and only another graph shows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from dsr_export.benchmark.race import Contestant
from dsr_export.benchmark.variants import optimized, switched_off
from dsr_export.families import load_subject
from dsr_export.families.encoders.vision_encoder import VisionEncoder
from dsr_export.subject import Subject

OF_REGISTERS = ("register_conditioning", "register_len", "register_start")


def bare_variant(subject: Subject, folder: Path) -> Contestant | None:
    """Our graph of `subject` (FP32) without registers and without run-time DSR, for its shapes alone.

    A denoiser gets random weights: it was not trained without registers. None where there are no registers, or where
    the module is the user's own and nothing here knows how to take them out.
    """
    if isinstance(subject.module, VisionEncoder) and subject.dsr.encoder.registers:
        with switched_off(subject.module), _rows_dropped(subject.module):
            return _traced(subject, folder)
    if subject.config.get("register_len"):
        options = {key: value for key, value in subject.config.items() if key not in OF_REGISTERS}
        return _traced(load_subject(subject.family, random_weights=0, registers=0, **options), folder)
    return None


def _traced(subject: Subject, folder: Path) -> Contestant:
    traced = subject.trace(folder / "bare-symbolic.onnx")
    return Contestant("bare", optimized(traced, folder, "bare"), subject.inputs)


@contextmanager
def _rows_dropped(encoder: VisionEncoder) -> Iterator[None]:
    """Of an encoder, whose CLS stays."""
    prefix, rows = encoder.prefix, encoder.appended
    kept = prefix[:, : prefix.shape[1] - encoder.trained_registers]
    encoder.prefix = nn.Parameter(kept, requires_grad=False)
    encoder.append_rows(0)
    try:
        yield
    finally:
        encoder.prefix = prefix
        encoder.append(rows)
