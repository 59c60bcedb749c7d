"""A sampler's loop on a runner: what crosses the bus, what is launched, and that the numbers are the host's."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from dsr_export.backends.steps import device_runner, stepping
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


def walk(runner: Any, marks: list[int] | None = None, log: list[str] | None = None) -> np.ndarray:
    """The state after `CALLS` steps at one time; `marks` gets how long `log` was after each."""
    call, state = stepping(runner), np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    times = np.full(2, 0.25, np.float32)
    for _ in range(CALLS):
        state = call({"x": state, "t": times})["out"]
        if marks is not None and log is not None:
            marks.append(len(log))
    return np.asarray(state)


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
    for a, b in pairwise(marks[1:]):  # the first two calls take a block each, and from then on by turns
        done = Counter(gpu.driver.log[a:b])
        assert done["execute"] == 1 and not [name for name in done if name.startswith("cuMem")]


def test_another_array_is_uploaded_anew(gpu: Gpu) -> None:
    x, late = np.ones((2, 3), np.float32), np.full(2, 0.5, np.float32)
    with TensorRTRunner(b"plan", backend="tensorrt_rtx", inputs=SPECS) as runner:
        call = stepping(runner)
        for times in (np.zeros(2, np.float32), late, late):
            np.testing.assert_array_equal(np.asarray(call({"x": x, "t": times})["out"]), step(x, times))
        del call  # which keeps what it uploaded
    assert gpu.driver.counts()["cuMemcpyHtoDAsync"] == 3
    assert gpu.driver.held == {}


def test_a_runner_behind_checked_labels_is_on_the_device_as_well(gpu: Gpu) -> None:
    from dsr_export.backends.labels import LabelledRunner

    with TensorRTRunner(b"plan", backend="tensorrt_rtx", inputs=SPECS) as runner:
        wrapped = LabelledRunner(runner, 9)
        assert device_runner(wrapped) is not None and device_runner(OnHost()) is None
        with pytest.raises(ExportError, match="holds the label 10"):
            wrapped.infer_on_device({"y": np.array([10])})
    assert device_runner(LabelledRunner(OnHost(), 9)) is None
