"""`engines/model.onnx`, which engines are built from: held to all that `model.onnx` is held to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from dsr_export.bundle.reader import ENGINE_MODEL, Bundle
from tests.conftest import Cli
from tests.pipeline_parts import rewritten

Edit = Callable[[onnx.GraphProto, onnx.TensorProto], object]


def _with_engine_graph(bundle: Path, out: Path, edit: Edit = lambda graph, weight: None) -> Path:
    """The bundle, sealed again with a copy of its graph as that of engines; `edit` changes the copy by a weight."""
    model = onnx.load(bundle / "model.onnx")
    inside = {n.input[1] for n in model.graph.node if n.op_type == "MatMul" and n.name.startswith("blocks.1.")}
    edit(model.graph, next(tensor for tensor in model.graph.initializer if tensor.name in inside))
    return rewritten(bundle, out, {ENGINE_MODEL: model.SerializeToString()})


def _in_half(graph: onnx.GraphProto, weight: onnx.TensorProto) -> None:
    """Cast back before it is used: its numbers may be in tolerance."""
    name = weight.name
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), f"{name}.half"))
    graph.node.insert(0, helper.make_node("Cast", [f"{name}.half"], [name], name="back", to=1))


def _doubled(graph: onnx.GraphProto, weight: onnx.TensorProto) -> None:
    weight.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(weight), weight.name))


def test_it_has_the_types_of_the_precision(denoiser_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    """Or engines compiled from it would not."""
    done = cli("verify", _with_engine_graph(denoiser_bundle, tmp_path / "half.dsr", _in_half), "--json")
    failed = {each["name"]: each["problem"] for each in json.loads(done.out)["checks"] if not each["passed"]}
    assert done.code == 3
    assert "FLOAT16 tensors" in failed["types_of_precision"]


def test_it_is_what_is_searched_where_it_alone_fails(denoiser_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    done = cli("verify", _with_engine_graph(denoiser_bundle, tmp_path / "wrong.dsr", _doubled), "--json")
    report = json.loads(done.out)
    assert done.code == 3
    assert {row["target"] for row in report["parity"] if not row["passed"]} == {ENGINE_MODEL}
    assert report["bisection"]["site"].startswith("blocks.1"), report["bisection"]


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (Path.unlink, "engines/model.onnx is missing"),
        (lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]), "was changed"),
    ],
)
def test_none_of_its_bytes_may_change(
    spoil: Callable[[Path], object], problem: str, denoiser_bundle: Path, cli: Cli, tmp_path: Path
) -> None:
    bundle = _with_engine_graph(denoiser_bundle, tmp_path / "changed.dsr")
    assert Bundle.open(bundle).engine_graph == ENGINE_MODEL
    spoil(bundle / ENGINE_MODEL)
    done = cli("verify", bundle)
    assert done.code == 1
    assert problem in done.err
