"""A sampler's loop on a runner: what crosses the bus, what is launched, and that the numbers are the host's."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from dsr_export.backends.steps import carried_through, device_runner
from dsr_export.backends.tensorrt.runner import TensorRTRunner
from dsr_export.errors import ExportError
from tests.backends.tensorrt.engine_stand_in import SPECS, Gpu, stand_in, step

CALLS = 12
HOST_COPIES = ("cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return stand_in(monkeypatch)


class OnHost:
    """The same step without a GPU."""

    name = "host"

    def __enter__(self) -> OnHost:
        return self

    def __exit__(self, *_: object) -> None: ...

    def infer(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {"out": step(inputs["x"], inputs["t"])}


def walk(runner: Any, seen: list[int] | None = None, log: list[str] | None = None) -> np.ndarray:
    noise = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    times = np.linspace(1, 0, CALLS, dtype=np.float32)[:, None].repeat(2, axis=1)
    mark = (lambda done, of: seen.append(len(log))) if seen is not None and log is not None else lambda done, of: None
    return carried_through(runner, {"x": noise}, {"t": times}, {"x": "out"}, mark)["out"]


def test_between_two_steps_nothing_crosses_the_bus(gpu: Gpu) -> None:
    marks: list[int] = []
    with TensorRTRunner(b"plan", backend="tensorrt_rtx", inputs=SPECS) as runner:
        made = walk(runner, marks, gpu.driver.log)
    np.testing.assert_array_equal(made, walk(OnHost()))
    steps = [Counter(gpu.driver.log[a:b]) for a, b in pairwise(marks)]
    settled = steps[1:]  # the second call decides about the graph, and looks at its outputs
    assert len(settled) == CALLS - 2
    for each in settled:
        assert each["cuGraphLaunch"] == 1 and each["execute"] == 0
        assert not any(each[name] for name in (*HOST_COPIES, "cuMemAlloc", "cuMemFree", "cuStreamSynchronize"))
    assert gpu.driver.counts()["cuGraphInstantiate"] == 1 and gpu.contexts == 1
    assert gpu.driver.held == {}


def test_without_graphs_a_step_is_one_call_and_no_copy_at_all(gpu: Gpu) -> None:
    marks: list[int] = []
    with TensorRTRunner(b"plan", backend="tensorrt_rtx", inputs=SPECS, graphs="never") as runner:
        made = walk(runner, marks, gpu.driver.log)
    np.testing.assert_array_equal(made, walk(OnHost()))
    for a, b in pairwise(marks):
        done = Counter(gpu.driver.log[a:b])
        assert done["execute"] == 1 and not [name for name in done if name.startswith("cuMem")]


def test_steps_must_be_of_one_number() -> None:
    for steps in ({}, {"t": np.zeros((0, 2))}, {"t": np.zeros((2, 2)), "y": np.zeros((3, 2))}):
        with pytest.raises(ExportError, match="calls"):
            carried_through(OnHost(), {}, steps, {})


def test_a_runner_behind_checked_labels_is_on_the_device_as_well(gpu: Gpu) -> None:
    from dsr_export.backends.labels import LabelledRunner

    with TensorRTRunner(b"plan", backend="tensorrt_rtx", inputs=SPECS) as runner:
        wrapped = LabelledRunner(runner, 9)
        assert device_runner(wrapped) is not None and device_runner(OnHost()) is None
        with pytest.raises(ExportError, match="holds the label 10"):
            wrapped.infer_on_device({"y": np.array([10])})
    assert device_runner(LabelledRunner(OnHost(), 9)) is None
