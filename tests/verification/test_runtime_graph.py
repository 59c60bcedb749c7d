"""`onnxruntime.onnx`, which ONNX Runtime runs in the place of `model.onnx`: held to all that a call is held to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from dsr_export.bundle.reader import MODEL, RUNTIME_MODEL, Bundle
from dsr_export.errors import ExportError
from tests.conftest import Cli
from tests.pipeline_parts import rewritten


@pytest.fixture(scope="module")
def wrong(denoiser_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle in whose graph for ONNX Runtime one weight is not that of `model.onnx`."""
    model = onnx.load(denoiser_bundle / RUNTIME_MODEL)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "blocks.1.attn.proj.bias")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + 1, weight.name))
    out = tmp_path_factory.mktemp("wrong") / "wrong.dsr"
    return rewritten(denoiser_bundle, out, {RUNTIME_MODEL: model.SerializeToString()})


def test_it_has_the_operators_of_onnx_runtime(denoiser_bundle: Path) -> None:
    bundle = Bundle.open(denoiser_bundle)
    assert bundle.graphs == (MODEL, RUNTIME_MODEL)
    domains = {name: {node.domain for node in onnx.load(bundle.file(name)).graph.node} for name in bundle.graphs}
    assert domains == {MODEL: {""}, RUNTIME_MODEL: {"", "com.microsoft"}}
    assert bundle.report()["rewrites"]["attend_at_once"] == 2
    rows = [row["check"] for row in bundle.report()["parity"] if row.get("target") == RUNTIME_MODEL]
    assert {"batch-1", "batch-2", "batch-4", "determinism"} <= set(rows)


def test_it_is_what_is_run(denoiser_bundle: Path, wrong: Path) -> None:
    made = []
    for path in (denoiser_bundle, wrong):
        bundle = Bundle.open(path)
        fed = {spec.name: np.ones(spec.with_batch(1), spec.dtype) for spec in bundle.manifest.inputs}
        with bundle.runner("onnxruntime") as runner:
            made.append(runner.infer(fed)["out"])
    assert np.abs(made[0] - made[1]).max() > 1e-3


def test_it_alone_fails_where_it_alone_is_wrong(wrong: Path, cli: Cli) -> None:
    done = cli("verify", wrong, "--json")
    report = json.loads(done.out)
    assert done.code == 3
    assert {row["target"] for row in report["parity"] if not row["passed"]} == {RUNTIME_MODEL}
    assert report["bisection"]["tensor"] == "blocks.1.attn.proj/Add", report["bisection"]["problem"]


@pytest.mark.parametrize(("name", "op"), [(MODEL, "MultiHeadAttention"), (RUNTIME_MODEL, "EPContext")])
def test_no_other_operators_are_taken(name: str, op: str, denoiser_bundle: Path, tmp_path: Path) -> None:
    model = onnx.load(denoiser_bundle / RUNTIME_MODEL)
    node = next(node for node in model.graph.node if node.op_type == "MultiHeadAttention")
    node.op_type = op
    bundle = rewritten(denoiser_bundle, tmp_path / "other.dsr", {name: model.SerializeToString()})
    with pytest.raises(ExportError, match="no standard op"):
        Bundle.open(bundle)
