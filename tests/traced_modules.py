"""Small modules of one function, traced and run beside PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.subject import Subject
from dsr_export.subjects.module import subject_from
from graphs.artifacts import TracedModel

Body = Callable[[Any, Tensor], Any]


class Own(nn.Module):
    """Tokens [B, 6, 8] through `body`, which finds weights and constants of every kind on the module."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = body
        self.linear, self.token = nn.Linear(8, 8), nn.Parameter(torch.randn(1, 1, 8))
        self.positions = nn.Parameter(torch.randn(1, 6, 8))
        self.keep: Tensor
        self.register_buffer("keep", torch.tensor([True, False, True, True, False, True]))
        self.register_buffer("lengths", torch.tensor([1, 2, 3]))
        angles = torch.outer(torch.arange(6.0), 0.1 ** torch.arange(4.0))
        self.register_buffer("table", torch.polar(torch.ones_like(angles), angles))

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)


def subject_of(body: Body) -> Subject:
    return subject_from((Own(body).eval(), {"x": torch.randn(2, 6, 8)}), name="own", called="own", provenance={})


def agree(subject: Subject, path: Path, sizes: tuple[int, ...] = (1, 2, 5)) -> tuple[TracedModel, set[str]]:
    """The trace, and the ops of its graph, once its outputs are those of PyTorch at each batch."""
    traced = subject.trace(path)
    with subject.reference() as reference, OnnxRuntimeRunner(path, inputs=subject.inputs) as runner:
        for size in sizes:
            feeds = subject.example(size, seed=3)
            expected, got = reference.infer(feeds), runner.infer(feeds)
            for name, value in expected.items():
                np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-5)
    return traced, {node.op_type for node in onnx.load(path).graph.node}
