"""The comparison: held-out means held out, a failing peer is listed, and on outliers ours is not the worse one."""

from __future__ import annotations

import importlib.util
import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from calibration.collect import Call
from calibration.methods import OUTLIER_AWARE
from dsr_export.families import load_subject
from tests.comparisons import int8_ablation
from tests.comparisons.calls import HeldOut, calibration_calls, held_out, sampler_of, save_calls
from tests.comparisons.int8_peers import Entry, as_table, compared
from tests.comparisons.models import Graph, graph_of
from tests.comparisons.ours import measure, quantised
from tests.comparisons.peers import modelopt_int8, onnxruntime_static
from tests.comparisons.scores import Quality, quality

PEER_PYTHON = os.environ.get("DSR_EXPORT_PEER_PYTHON", sys.executable)
has_modelopt = sys.executable != PEER_PYTHON or importlib.util.find_spec("modelopt") is not None
STEPS, IMAGES = 5, 2
pytestmark = pytest.mark.slow  # the comparison is run by hand, for the guide


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return graph_of(load_subject("digits-outliers"), tmp_path_factory.mktemp("peers"))


@pytest.fixture(scope="module")
def calls(graph: Graph) -> list[Call]:
    return calibration_calls(graph, sampler_of(graph, STEPS), IMAGES)


@pytest.fixture(scope="module")
def held(graph: Graph, calls: list[Call]) -> HeldOut:
    return held_out(graph, sampler_of(graph, STEPS), calls)


@pytest.fixture(scope="module")
def ours(graph: Graph, calls: list[Call], held: HeldOut) -> Quality:
    made = quantised(graph, measure(graph, calls), OUTLIER_AWARE, graph.path.with_name("ours.onnx"))
    return quality(graph, made, held)


@pytest.mark.slow
def test_held_out_inputs_share_neither_label_nor_noise_with_the_calibration(calls: list[Call], held: HeldOut) -> None:
    null = 10
    seen = {int(label) for call in calls for label in call.inputs["y"]}
    assert not seen & (set(held.labels.tolist()) - {null})
    rows = {row.tobytes() for call in calls for row in call.inputs["x"]}
    assert not any(row.tobytes() in rows for inputs, _ in held.cases for row in inputs["x"])
    assert len(held.cases) == STEPS - 1


@pytest.mark.slow
def test_the_graph_itself_is_without_error(graph: Graph, held: HeldOut) -> None:
    found = quality(graph, graph.path, held)
    assert found.snr_db == found.psnr_db == 300


@pytest.mark.slow
def test_a_peer_that_fails_is_listed_with_its_reason(graph: Graph, held: HeldOut, tmp_path: Path) -> None:
    def broken(out: Path) -> None:
        raise RuntimeError("no kernel\nfor this | op")

    found = compared("m", graph, {"broken": broken}, held, tmp_path, rounds=3, threads=1)
    assert found == [Entry(model="m", quantiser="broken", problem="RuntimeError: no kernel for this | op")]
    assert "| broken | fails: RuntimeError: no kernel for this \\| op | - |" in as_table(found)


@pytest.mark.slow
def test_an_interpreter_without_modelopt_is_a_failure_with_its_reason(graph: Graph, tmp_path: Path) -> None:
    """Isolated and without site packages: whatever is installed here is not seen."""
    bare = tmp_path / "bare-python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(RuntimeError, match="ModuleNotFoundError: No module named"):
        modelopt_int8(graph.path, tmp_path / "rows.npz", tmp_path / "out.onnx", python=str(bare), method="max")


@pytest.mark.slow
def test_what_can_not_be_compared_is_no_figure(graph: Graph, held: HeldOut) -> None:
    case, truth = held.cases[0]
    nan = HeldOut(held.sampler, held.noise, held.labels, [(case, np.full_like(truth, np.nan))], held.final)
    with pytest.raises(ValueError, match="NaN or infinite"):
        quality(graph, graph.path, nan, walks=False)


def test_every_ingredient_has_a_row_of_its_own() -> None:
    recipes = int8_ablation.RECIPES
    for name in int8_ablation.INGREDIENTS:
        without = recipes[f"without {name}"]
        left = {each for each in int8_ablation.INGREDIENTS if getattr(without, each)}
        assert left == set(int8_ablation.INGREDIENTS) - {name}
    found = {"m": {recipe: Quality(1.0 + i, 2.0 + i, None) for i, recipe in enumerate(recipes)}}
    assert "| without rows | 3.0 / 4.0 |" in int8_ablation.as_table(found)


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.parametrize("method", ["MinMax", "Percentile"])
def test_onnx_runtimes_static_quantiser_is_worse_on_outliers(
    method: str, graph: Graph, calls: list[Call], held: HeldOut, ours: Quality, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime.quantization", reason="needs ONNX Runtime's quantisation tools")
    _assert_worse(partial(onnxruntime_static, method=method), graph, calls, held, ours, tmp_path)


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.skipif(
    not has_modelopt, reason="needs nvidia-modelopt[onnx]; DSR_EXPORT_PEER_PYTHON names its interpreter"
)
def test_modelopt_is_worse_on_outliers(
    graph: Graph, calls: list[Call], held: HeldOut, ours: Quality, tmp_path: Path
) -> None:
    _assert_worse(partial(modelopt_int8, python=PEER_PYTHON, method="max"), graph, calls, held, ours, tmp_path)


def _assert_worse(make: object, graph: Graph, calls: list[Call], held: HeldOut, ours: Quality, folder: Path) -> None:
    """By a margin, in one step and in the final sample."""
    make(graph.path, save_calls(calls, folder / "rows.npz"), folder / "peer.onnx")  # type: ignore[operator]
    theirs = quality(graph, folder / "peer.onnx", held)
    assert ours.snr_db > 40
    assert theirs.snr_db < ours.snr_db - 6
    assert theirs.psnr_db < ours.psnr_db - 6
