"""The audit of ranges: quick where every tensor is finite, and the same verdicts where one is not."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from dsr_export.parity.golden.vectors import Case, Golden
from dsr_export.stages import audit
from dsr_export.stages.audit import AuditRanges
from dsr_export.stages.stage import FACTS
from graphs.artifacts import OptimizedModel, TensorSpec

VALUES = [[[1.0, -3.0]], [[2.0, 0.5]]]


def _audited(folder: Path, mask: float, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], list[bool]]:
    """The facts of softmax(x + mask of the first), whose sum holds that mask, and which probes were tried."""
    nodes = [
        helper.make_node("Constant", [], ["mask"], name="a/Constant", value_floats=[mask, 0.0]),
        helper.make_node("Add", ["x", "mask"], ["sum"], name="a/Add"),
        helper.make_node("Softmax", ["sum"], ["out"], name="a/Softmax", axis=-1),
    ]
    x, out = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("x", "out"))
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [out]), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    onnx.save(model, folder / "m.onnx")
    tried: list[bool] = []
    probes = audit.add_range_probes
    monkeypatch.setattr(
        audit, "add_range_probes", lambda *given, quick=False: tried.append(quick) or probes(*given, quick=quick)
    )
    rows = [np.array(values, np.float32) for values in VALUES]
    one = np.array([[0, 1]], np.float32)
    golden = Golden(
        {1: Case({"x": rows[0]}, {"out": one})}, None, further={"special": Case({"x": rows[1]}, {"out": one})}
    )
    spec = {name: TensorSpec(name=name, dtype="float32", shape=("batch", 2)) for name in ("x", "out")}
    AuditRanges(
        source=SimpleNamespace(model=OptimizedModel(path=folder / "m.onnx")),  # type: ignore[arg-type]
        card=SimpleNamespace(inputs=(spec["x"],), outputs=(spec["out"],)),  # type: ignore[arg-type]
        reference=SimpleNamespace(golden=golden),  # type: ignore[arg-type]
        sampler=None,
    ).work(folder, lambda _, __: None)
    return json.loads((folder / FACTS).read_text()), tried


def test_finite_tensors_are_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts, tried = _audited(tmp_path, -10.0, monkeypatch)
    assert tried == [True] and facts["runs"] == 2 and facts["maxima"]["sum"] == 9
    assert sorted(path.name for path in tmp_path.iterdir()) == [FACTS, "m.onnx"]


def test_of_a_tensor_with_infinities_the_finite_ones_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts, tried = _audited(tmp_path, -np.inf, monkeypatch)
    assert tried == [True, False] and facts["runs"] == 2 and facts["maxima"]["sum"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [FACTS, "m.onnx"]
