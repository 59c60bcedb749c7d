"""A failure at each call of the driver in turn: it is said, and everything that was taken is given back."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsr_export.backends.cuda import dlpack, replay
from dsr_export.backends.tensorrt.runner import TensorRTRunner
from dsr_export.errors import RunnerError
from tests.backends.tensorrt.driver_stand_in import FAILED, OUT_OF_MEMORY
from tests.backends.tensorrt.engine_stand_in import SPECS, Gpu, stand_in, step
from tests.backends.tensorrt.test_runner import Torchlike

MOST_CALLS = 2000


def rows(count: int) -> dict[str, np.ndarray]:
    return {"x": np.arange(count * 3, dtype=np.float32).reshape(count, 3), "t": np.ones(count, np.float32)}


def session(gpu: Gpu, cache: Path | None = None) -> Iterator[np.ndarray]:
    """All that a runner does: batches that grow, on the host and on the device, captured and not."""
    with TensorRTRunner(b"plan", backend="tensorrt_rtx", inputs=SPECS, cache=cache) as runner:
        for count in (2, 2, 2, 4):
            yield runner.infer(rows(count))["out"]
        held = {name: runner.upload(array) for name, array in rows(4).items()}
        for _ in range(3):
            yield runner.infer_on_device(held)["out"].numpy()
        yield runner.infer_on_device(rows(1))["out"].numpy()
        given = {name: Torchlike(tensor) for name, tensor in held.items()}
        made = runner.infer_on_device(given)["out"]
        capsule = made.__dlpack__()  # which nobody takes
        yield made.numpy()
        del capsule


def run(gpu: Gpu, fail_at: int | None, code: int) -> tuple[bool, int]:
    """Whether the session came to its end, and how many calls it made."""
    gpu.driver.log.clear()
    gpu.driver.fail_at, gpu.driver.code = fail_at, code
    return ended(gpu) is None, len(gpu.driver.log)


def ended(gpu: Gpu, cache: Path | None = None) -> str | None:
    """What is said of what ended the session; whatever it gave before that was right."""
    try:
        for made, count in zip(session(gpu, cache), (2, 2, 2, 4, 4, 4, 4, 1, 4), strict=True):
            np.testing.assert_array_equal(made, step(**rows(count)))
    except RunnerError as error:
        return error.message
    return None


@pytest.mark.parametrize(("code", "every"), [(FAILED, 1), (OUT_OF_MEMORY, 5)])
def test_everything_is_given_back_wherever_it_fails(monkeypatch: pytest.MonkeyPatch, code: int, every: int) -> None:
    gpu = stand_in(monkeypatch)
    monkeypatch.setattr(replay, "RACES", 1)
    done, calls = run(gpu, None, code)
    assert done and calls < MOST_CALLS and gpu.driver.held == {} and gpu.alive == set()
    outcomes: dict[str, set[bool]] = {}
    for at in range(0, calls, every):
        done, _ = run(gpu, at, code)
        name = gpu.driver.log[at]
        outcomes.setdefault(name, set()).add(done)
        gc.collect(0)
        assert gpu.driver.held == {} and gpu.driver.current == [], (at, name, gpu.driver.held)
        assert gpu.alive == set() and dlpack._handed_out == {}, (at, name)
    if every == 1:
        assert outcomes["cuMemcpyHtoDAsync"] == outcomes["cuStreamCreate"] == {False}
        assert outcomes["cuGraphInstantiate"] == {True}  # without the graph
        assert outcomes["cuMemFree"] == outcomes["cuStreamDestroy"] == {True}


def test_while_the_error_is_held_nothing_of_the_gpu_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller may keep the exception, and with it every frame on the way."""
    gpu = stand_in(monkeypatch)
    monkeypatch.setattr(replay, "RACES", 1)
    _, calls = run(gpu, None, FAILED)
    kept: list[Any] = []
    for at in range(0, calls, 3):
        gpu.driver.log.clear()
        gpu.driver.fail_at = at
        try:
            for made in session(gpu):
                del made
        except RunnerError as error:
            kept.append(error)
            left = {kind: count for kind, count in gpu.driver.held.items() if kind not in ("memory", "context")}
            assert left == {}, at
    assert kept
    kept.clear()
    gc.collect()
    assert gpu.driver.held == {}


def test_what_the_bindings_raise_is_said_and_everything_is_given_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpu = stand_in(monkeypatch)
    monkeypatch.setattr(replay, "RACES", 1)
    cache = tmp_path / "kept" / "rtx.bin"
    assert ended(gpu, cache) is None and cache.is_file()
    gpu.asked.clear()
    assert ended(gpu, cache) is None
    names, told = gpu.asked[:], dict[str, set[bool]]()
    for at, name in enumerate(names):
        gpu.asked.clear()
        gpu.raises_at = at
        error = ended(gpu, cache)
        assert error is None or "Myelin is gone" in error, name
        told.setdefault(name, set()).add(error is None)
        gc.collect(0)
        assert gpu.driver.held == {} and gpu.driver.current == [] and gpu.alive == set(), (at, name)
        assert dlpack._handed_out == {}, (at, name)
    assert {"create_execution_context", "set_input_shape", "set_tensor_address"} <= told.keys()
    assert told["deserialize"] == told["serialize"] == {True}  # kept kernels spare time, and no more
    assert told["execute_async_v3"] == {False, True}  # one that is captured costs the graph alone
    assert told["create_runtime_config"] == {False}


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("create_runtime_config", "no object for its settings"),
        ("create_execution_context", "no context"),
        ("create_runtime_cache", None),
        ("serialize", None),
        ("set_input_shape", "failed"),
        ("set_tensor_address", "failed"),
    ],
)
def test_a_binding_that_gives_nothing_is_met(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, ends: str | None
) -> None:
    gpu = stand_in(monkeypatch)
    gpu.gives_nothing = name
    error = ended(gpu, tmp_path / "kept" / "rtx.bin")
    assert (error is None) if ends is None else (error is not None and ends in error)
    gc.collect(0)
    assert gpu.driver.held == {} and gpu.alive == set()
