"""TensorRT's engines are built to tell what they launch, and asked for it; a build never fails by that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dsr_export.backends.tensorrt.build import build_engine
from dsr_export.config import BatchRange
from graphs.targets import target
from tests.backends import tiny_models
from tests.backends.tensorrt.builder_stand_in import PLAN, TensorRT, stand_in

UNREAD = "the schedule of this plan cannot be read: "


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> TensorRT:
    return stand_in(monkeypatch)


def facts(folder: Path) -> dict[str, Any]:
    path = tiny_models.linear(folder, width=16, half=True)
    engine = build_engine(path, target("trt10"), batch=BatchRange(1, 2, 4), inputs=tiny_models.specs(path))
    assert bytes(engine.plan) == PLAN
    return engine.facts


def test_the_schedule_is_that_of_the_batch_that_the_engine_is_tuned_for(tmp_path: Path, tensorrt: TensorRT) -> None:
    found = facts(tmp_path)
    assert found["schedule_problem"] is None
    told = found["schedule"]
    assert [each["nodes"] for each in told["launches"]] == [
        [f"blocks.{i}.attn/{op}"] for i, op in enumerate(("Cast", "MatMul", "Relu", "Cast"))
    ]
    assert told["batch"] == 2 and told["launches"][0]["read"] == {"float32": 2 * 16 * 4}
    assert told["launches"][1]["read"] == {"float16": 2 * 16 * 2 + 16 * 16 * 2}
    assert told["gemms"][0]["computes"] == "float16"


def test_it_is_built_in_detail_and_asked_without_memory_for_activations(tmp_path: Path, tensorrt: TensorRT) -> None:
    facts(tmp_path)
    assert tensorrt.asked["profiling_verbosity"] == "detailed" and tensorrt.strategy == "user managed"
    assert tensorrt.alive == []  # each was given back before what it was made from


def _raises(*told: object) -> str:
    raise RuntimeError("Myelin is unwell")


@pytest.mark.parametrize(
    ("tell", "said"),
    [
        (_raises, "the engine was not inspected: Myelin is unwell"),
        (lambda *told: '{"Layers": ["a"], "Bindings": []}', "the inspector tells only names of layers: "),
        (lambda *told: "", "the inspector's text is no JSON: "),
        (lambda *told: None, "the inspector's text is no JSON: "),
    ],
)
def test_what_goes_wrong_is_said_and_the_engine_stays(tmp_path: Path, tensorrt: TensorRT, tell: Any, said: str) -> None:
    tensorrt.tell = tell
    found = facts(tmp_path)
    assert found["schedule"] is None and found["schedule_problem"].startswith(UNREAD + said)
    assert tensorrt.alive == []


def test_an_engine_that_does_not_load_is_built_all_the_same(tmp_path: Path, tensorrt: TensorRT) -> None:
    tensorrt.loads = False
    found = facts(tmp_path)
    assert found["schedule_problem"] == f"{UNREAD}the engine was not inspected: CUDA is out of memory"
    assert found["warnings"] == []
