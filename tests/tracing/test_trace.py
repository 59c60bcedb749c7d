"""What tracing writes for the `dsr` ops, and what it keeps to itself."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.families import load_subject
from dsr_export.spec import ReplaceSpec
from dsr_export.subjects.module import subject_from
from graphs.dsr.definitions import evaluate
from graphs.lowering import lower
from tests.traced_modules import Body, agree, subject_of


def test_a_site_without_excluded_rows_is_traced_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], rng: np.random.Generator
) -> None:
    """Block 0 has no registers yet, block 1 has four: an empty list has no ONNX type, and onnxscript says so."""
    subject = load_subject(
        "dit", random_weights=0, registers=4, register_start=1, patch_size=2, input_size=8, in_channels=4,
        hidden_size=48, depth=2, num_heads=4, num_classes=5,
        replace=[ReplaceSpec(layers=(0, 1), rule="median", threshold=1.3, rounds=2)],
    )  # fmt: skip
    traced = subject.trace(tmp_path / "traced.onnx")
    said = [record.getMessage() for record in caplog.records if record.levelno > logging.DEBUG]  # torch traces itself
    assert (said, *capfd.readouterr()) == ([], "", "")

    sites = [node for node in onnx.load(traced.path).graph.node if node.domain == "dsr"]
    assert [_excluded(node) for node in sites] == [None, [0, 1, 2, 3]]
    x, rows = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 16, 48), (4, 48)))
    x[0, 3] *= 100
    replaced = evaluate(sites[0], [x, rows])
    assert (replaced[0, 3] == rows).all(axis=1).any()

    lowered, _ = lower(traced, tmp_path / "lowered.onnx")
    feeds = subject.example(3, seed=1)
    with subject.reference() as reference, OnnxRuntimeRunner(lowered.path, inputs=subject.inputs) as static:
        np.testing.assert_allclose(static.infer(feeds)["out"], reference.infer(feeds)["out"], atol=1e-4)


def _excluded(node: onnx.NodeProto) -> list[int] | None:
    return next((list(each.ints) for each in node.attribute if each.name == "exclude"), None)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(lambda s, x: (s.linear(x), x), id="an input"),
        pytest.param(lambda s, x: (x.float(), s.linear(x)), id="an input first"),
        pytest.param(lambda s, x: [s.linear(x)] * 3, id="one output, three times"),
        pytest.param(lambda s, x: (s.linear(x), s.linear.weight.expand(len(x), -1, -1)), id="a weight"),
    ],
)
def test_inputs_and_outputs_have_their_names_whatever_is_returned(body: Body, tmp_path: Path) -> None:
    """The exporter names a value once: an input that is an output lost its own name."""
    subject = subject_of(body)
    traced, _ = agree(subject, tmp_path / "traced.onnx")
    graph = onnx.load(traced.path).graph
    for values, specs in ((graph.input, subject.inputs), (graph.output, subject.outputs)):
        assert [value.name for value in values] == [spec.name for spec in specs]


def test_an_output_may_be_called_as_what_is_computed_is(tmp_path: Path) -> None:
    """`mul` and `add` are torch's own names for them."""
    subject = subject_of(lambda s, x: {"mul": x + 1, "add": (x * 2) + (x * 3), "neg": x * 4})
    agree(subject, tmp_path / "traced.onnx")


@pytest.mark.parametrize("names", [["out"], ["x"], ["out", "out_1"], ["x_1", "x", "mul", "mul_1", "out_2", "out"]])
def test_weights_may_be_called_as_inputs_outputs_and_what_is_computed_are(names: list[str], tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in names:
                setattr(self, name, nn.Parameter(torch.randn(8)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for name in names:
                x = x * getattr(self, name)
            return x

    subject = subject_from((Scaled().eval(), {"x": torch.randn(2, 6, 8)}), name="own", called="own", provenance={})
    agree(subject, tmp_path / "traced.onnx")
    graph = onnx.load(tmp_path / "traced.onnx").graph
    assert [value.name for value in graph.output] == ["out"]
    assert {each.name for each in graph.initializer}.isdisjoint({"x", "out"})
