"""Sorts are PyTorch's, values and positions, ties included, in every type that PyTorch sorts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from graphs.artifacts import LoweredModel
from graphs.lowering import optimize
from graphs.mixed_precision.islands import PrecisionPolicy
from graphs.mixed_precision.typed import assign_precision
from tests.traced_modules import agree, subject_of

TYPES = {"float": torch.float32, "int64": torch.int64, "int32": torch.int32, "int8": torch.int8, "bool": torch.bool}
WIDE = {torch.int8: torch.int32}  # a model has no outputs of 8 bits


def every_sort(s: Any, x: Tensor) -> dict[str, Tensor]:
    """[B, 6, 8] of few different values, so that nearly all tie, sorted along each axis; positions as they are."""
    made: dict[str, Tensor] = {}
    few = (2 * x).round()
    for name, kind in TYPES.items():
        keys = few > 0 if kind is torch.bool else few.to(kind)
        for axis in (-1, 1, -2):
            for descending in (False, True):
                values, positions = torch.sort(keys, stable=True, dim=axis, descending=descending)
                made |= {
                    f"{name}{axis}{descending}": values.to(WIDE.get(kind, kind)),
                    f"{name}{axis}{descending}_at": positions,
                }
    made["argsort"] = torch.argsort(few, dim=1, descending=True, stable=True)
    made["ranks"] = few.argsort(stable=True).argsort(stable=True)
    made["unstable"] = torch.sort(x, 1)[0]
    made["msort"] = x + torch.msort(x[0])
    made["samples"] = torch.sort(few, stable=True, dim=0)[1]
    made["scalar"] = x + torch.sort(x.mean(), stable=True)[0]
    return made


def test_sorts_are_stable(tmp_path: Path) -> None:
    ops = agree(subject_of(every_sort), tmp_path / "traced.onnx", sizes=(1, 3))[1]
    assert "TopK" in ops


def test_half_graphs_sort_in_fp32(tmp_path: Path) -> None:
    """Values that differ by less than half precision tells apart keep their order."""

    def ranked(s: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        values, positions = torch.sort(1 + x * 1e-5, stable=True, dim=1, descending=True)
        return s.linear(values), positions

    subject = subject_of(ranked)
    lowered = LoweredModel(path=subject.trace(tmp_path / "traced.onnx").path)
    optimized, _ = optimize(lowered, tmp_path / "optimized.onnx")
    typed, _ = assign_precision(optimized, tmp_path / "fp16.onnx", "fp16", PrecisionPolicy())
    assert "TopK" in {node.op_type for node in onnx.load(typed.path).graph.node}
    feeds = subject.example(3, seed=3)
    with subject.reference() as reference, OnnxRuntimeRunner(typed.path, inputs=subject.inputs) as runner:
        expected, got = reference.infer(feeds), runner.infer(feeds)
    positions = [name for name, value in expected.items() if value.dtype == np.int64]
    assert len(positions) == 1
    np.testing.assert_array_equal(got[positions[0]], expected[positions[0]])
