"""What a runtime could not do is told apart from what it should never have been given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import parser

from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.backends.opening import tapped_runner, typed_runner
from dsr_export.errors import ExportError, RunnerError
from graphs.artifacts import TensorSpec

INPUTS = (TensorSpec(name="x", dtype="int64", shape=("batch",)),)
LOOKUP = """<ir_version: 9, opset_import: ["" : 20]> g (int64[batch] x) => (float[batch] y)
    <float[2] table = {1.0, 2.0}> { [look] y = Gather(table, x) }"""
UNKNOWN = """<ir_version: 9, opset_import: ["" : 20, "own" : 1]> g (int64[batch] x) => (float[batch] y)
    <float16[2] table = {1, 2}> { [own] h = own.Op(table, x) [wide] y = Cast<to = 1>(h) }"""


def _model(text: str) -> bytes:
    return bytes(parser.parse_model(text).SerializeToString())


def _runner() -> OnnxRuntimeRunner:
    return OnnxRuntimeRunner(_model(LOOKUP), inputs=INPUTS)


FAILURES: dict[str, Callable[[], Any]] = {
    "no model": lambda: OnnxRuntimeRunner(b"\xff\xff", inputs=INPUTS),
    "no such op": lambda: OnnxRuntimeRunner(_model(LOOKUP.replace("Gather", "Gathering")), inputs=INPUTS),
    "while running": lambda: _runner().infer({"x": np.array([7])}),
}
MISTAKES: dict[str, Callable[[], Any]] = {
    "another type": lambda: _runner().infer({"x": np.array([0.0])}),
    "another name": lambda: _runner().infer({"z": np.array([0])}),
    "other inputs": lambda: OnnxRuntimeRunner(_model(LOOKUP), inputs=()),
}


@pytest.mark.parametrize("case", FAILURES)
def test_what_the_runtime_cannot_do_is_a_runner_error(case: str) -> None:
    with pytest.raises(RunnerError, match="ONNX Runtime"):
        FAILURES[case]()


@pytest.mark.parametrize("case", MISTAKES)
def test_what_does_not_belong_to_it_is_none(case: str) -> None:
    with pytest.raises(ExportError) as caught:
        MISTAKES[case]()
    assert type(caught.value) is ExportError


def test_a_graph_that_cannot_be_rounded_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(_model(UNKNOWN))
    for opened in (typed_runner, lambda *given: tapped_runner(*given, [])):
        with pytest.raises(RunnerError, match="cannot be inferred"):
            opened(tmp_path / "model.onnx", INPUTS, "fp16")


def test_a_damaged_file_is_no_failure_of_a_runtime(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\xff\xff")
    with pytest.raises(ExportError) as caught:
        typed_runner(tmp_path / "model.onnx", INPUTS, "fp16")
    assert type(caught.value) is ExportError


def test_a_module_that_returns_something_else_is_a_failure() -> None:
    from dsr_export.subjects.torch_runner import _numpy

    for made in (None, torch.zeros(2, dtype=torch.float16)):
        with pytest.raises(RunnerError, match="output 'y'"):
            _numpy(made, "y")
