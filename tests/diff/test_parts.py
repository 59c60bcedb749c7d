"""The parts of a difference that need no bundle: fields, graphs, rows, verdicts."""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx
import pytest

from dsr_export.bundle.component_entries import ComponentEntry
from dsr_export.bundle.manifest import Manifest
from dsr_export.config import BatchRange
from dsr_export.diff.fields import differing
from dsr_export.diff.figures import check_difference, parity_difference, stage_difference
from dsr_export.diff.graph import graph_difference
from dsr_export.diff.verdict import regressions
from graphs.artifacts import TensorSpec
from graphs.precisions import Precision
from tests.bundle.conftest import manifest

__all__ = ["manifest"]

NOTHING: dict[str, Any] = {"parity": [], "checks": [], "outputs": []}


def row(snr: float | None, *, passed: bool = True, problem: str | None = None) -> dict[str, Any]:
    names = {"check": "batch-1", "output": "out", "runtime": "onnxruntime"}
    return {**names, "snr_db": snr, "psnr_db": snr, "cosine": 1.0, "max_abs": 0.0, "passed": passed, "problem": problem}


def test_fields_differ_by_path_and_a_missing_part_is_one_difference() -> None:
    a = {"same": [1, {"x": 2}], "deep": {"list": [1, 2]}, "gone": {"many": 1, "parts": 2}, "kind": {}}
    b = {"same": [1, {"x": 2}], "deep": {"list": [1, 3, 4]}, "kind": None}
    assert differing(a, b) == {
        "deep.list.1": {"a": 2, "b": 3},
        "deep.list.2": {"a": None, "b": 4},
        "gone": {"a": {"many": 1, "parts": 2}, "b": None},
        "kind": {"a": {}, "b": None},
    }


def test_graphs_differ_by_named_nodes() -> None:
    def graph(*nodes: tuple[str, str, dict[str, Any]]) -> onnx.ModelProto:
        made = [onnx.helper.make_node(op, ["x"], [f"{name}.y"], name=name, **given) for name, op, given in nodes]
        return onnx.helper.make_model(onnx.helper.make_graph(made, "g", [], []))

    a = graph(("r", "Relu", {}), ("s", "Softmax", {"axis": 1}), ("c", "Cast", {"to": 1}))
    b = graph(("r", "Relu", {}), ("s", "Softmax", {"axis": 2}), ("m", "Relu", {}))
    assert graph_difference(a, b) == {
        "nodes": {"a": 3, "b": 3},
        "operators": {"Cast": {"a": 1, "b": 0}, "Relu": {"a": 1, "b": 2}},
        "nodes_added": ["m"],
        "nodes_removed": ["c"],
        "nodes_changed": ["s"],
    }


def test_rows_of_two_engines_of_one_runtime_are_kept_apart() -> None:
    rows = parity_difference([row(50.0), row(70.0)], [row(52.0), row(None, problem="failed")])
    assert [each["delta"]["snr_db"] for each in rows] == [2.0, None]
    assert rows[1]["b"]["problem"] == "failed"
    (alone,) = parity_difference([], [row(52.0)])
    assert alone["a"] is None and alone["delta"]["snr_db"] is None


@pytest.mark.parametrize(
    ("a", "b", "margin", "worse"),
    [
        (row(70.0), row(58.0), 3.0, True),
        (row(130.0), row(69.0), 3.0, False),  # far, but above the floor
        (row(58.0), row(55.5), 3.0, False),  # below the floor, but near
        (row(58.0), row(55.5), 2.0, True),
        (row(50.0), row(70.0), 3.0, False),
        (row(61.0), row(59.0, passed=False), 3.0, True),
        (row(39.0, passed=False), row(38.0, passed=False), 3.0, False),
        (row(50.0), row(None, passed=False, problem="3 values are NaN"), 3.0, True),
        (row(None, passed=False, problem="NaN"), row(None, passed=False, problem="NaN"), 3.0, False),
    ],
)
def test_what_counts_as_worse(manifest: Manifest, a: Any, b: Any, margin: float, worse: bool) -> None:
    manifest = dataclasses.replace(manifest, precision="fp32")
    rows = {**NOTHING, "parity": parity_difference([a], [b])}
    assert bool(regressions(manifest, manifest, rows, margin)) == worse
    outputs = {**NOTHING, "outputs": [{"batch": 1, "output": "out", "a": a, "b": b}]}
    assert bool(regressions(manifest, manifest, outputs, margin)) == worse
    gone = {**NOTHING, "parity": parity_difference([a], [])}  # a runtime that B's machine did not have
    assert regressions(manifest, manifest, gone, margin) == []


@pytest.mark.parametrize(
    ("precisions", "floor"),
    [(("fp16", "fp16"), 56), (("bf16", "bf16"), 38), (("fp32", "fp16"), 60), (("fp32",) * 2, 60)],
)
def test_rounding_is_no_regression(manifest: Manifest, precisions: tuple[Precision, Precision], floor: int) -> None:
    a, b = (dataclasses.replace(manifest, precision=each) for each in precisions)
    for below, worse in ((1, True), (-1, False)):
        rows = {**NOTHING, "parity": parity_difference([row(floor + 5.0)], [row(floor - below)])}
        assert [f"below {floor} dB" in text for text in regressions(a, b, rows, 3.0)] == [True] * worse


def test_a_failing_check_is_worse(manifest: Manifest) -> None:
    sides = [[{"component": "decoder", "name": "passed", "value": v, "passed": bool(v)}] for v in (1.0, 0.0)]
    facts = {**NOTHING, "checks": check_difference(*sides)}
    (text,) = regressions(manifest, manifest, facts, 3.0)
    assert text == "decoder/passed passed in A, and in B it is 0.000 and fails"
    assert regressions(manifest, manifest, {**NOTHING, "checks": check_difference(*reversed(sides))}, 3.0) == []


def test_a_failing_engine_is_no_other_engine(manifest: Manifest) -> None:
    def checks(**passed: bool) -> list[dict[str, Any]]:
        same = {"name": "attentions_fused", "problem": None}
        return [{**same, "target": name, "value": float(each), "passed": each} for name, each in passed.items()]

    found = check_difference(checks(rtx=True), checks(rtx=False, sm89=True))  # whose rows come in either order
    assert [(each["target"], each["a"] and each["a"]["passed"]) for each in found] == [("rtx", True), ("sm89", None)]
    assert found == check_difference(checks(rtx=True), checks(sm89=True, rtx=False))
    (text,) = regressions(manifest, manifest, {**NOTHING, "checks": found}, 3.0)
    assert text == "attentions_fused of rtx passed in A, and in B it is 0.000 and fails"


def test_a_row_of_another_graph_is_another_row() -> None:
    beside = row(70.0) | {"target": "engines/model.onnx"}
    rows = parity_difference([row(50.0), beside], [beside | {"snr_db": 40.0}])
    assert [(each["target"], each["delta"]["snr_db"]) for each in rows] == [(None, None), ("engines/model.onnx", -30.0)]


def test_stages_that_ran_twice_are_both_told() -> None:
    a, b = (
        [{"name": "engine", "seconds": each, "cached": False} for each in seconds] for seconds in ([1.0, 2.0], [3.0])
    )
    found = stage_difference(a, b)
    assert [side and side["seconds"] for each in found.values() for side in each.values()] == [1.0, 3.0, 2.0, None]
    assert list(found) == ["engine", "engine 2"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"inputs": (TensorSpec(name="x", dtype="float16", shape=("batch", 1024)),)}, "inputs differ"),
        ({"outputs": (TensorSpec(name="out", dtype="float32", shape=("batch", 512)),)}, "outputs differ"),
        ({"batch": BatchRange(1, 2, 4)}, "B takes batches 1 to 4, and A took 1 to 8"),
        ({"batch": BatchRange(1, 2, 16)}, None),
        ({"inputs": (TensorSpec(name="x", dtype="float32", shape=("n", 1024)),)}, None),
        ({"precision": "int8"}, None),
    ],
)
def test_another_interface_is_worse(manifest: Manifest, change: dict[str, Any], said: str | None) -> None:
    found = regressions(manifest, dataclasses.replace(manifest, **change), NOTHING, 3.0)
    assert [said is not None and said in text for text in found] == ([] if said is None else [True])


def test_a_lost_component_is_worse(manifest: Manifest) -> None:
    entry = ComponentEntry(path="components/decoder", name="d", build_key="k", digest="0" * 64)
    piped = dataclasses.replace(manifest, components={"decoder": entry})
    assert regressions(piped, manifest, NOTHING, 3.0) == ["B has no component 'decoder'"]
    assert regressions(manifest, piped, NOTHING, 3.0) == []
