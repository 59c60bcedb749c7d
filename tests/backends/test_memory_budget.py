"""What a model takes while it runs is held to what its size allows for, and the process's own limits come back."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from dsr_export.backends import memory_budget
from dsr_export.backends.memory_budget import budget, within
from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.errors import ExportError
from tests.backends import tiny_models

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process cannot bound its memory")

FROM_VALUES = "k = Constant<value=int64[1]{{0}}>() s = ReduceMax<keepdims=0>(x) i = Cast<to=7>(s) n = Mul(i, k) {}"
"""`n` is [0] at any input, which nothing can tell before it runs."""
LARGE = {
    "pads": "b = Constant<value=int64[4]{0, 0, 0, 900000000}>() q = Add(n, b) e = Pad(x, q)",
    "an expansion": "b = Constant<value=int64[1]{900000000}>() q = Add(n, b) e = Expand(s, q)",
    "a fill": "b = Constant<value=int64[2]{30000, 30000}>() q = Add(n, b) e = ConstantOfShape(q)",
    "tiles": "b = Constant<value=int64[2]{1, 50000000}>() q = Add(n, b) e = Tile(x, q)",
    "a range": "b = Constant<value=int64{900000000}>() o = Constant<value=int64{1}>() c = Squeeze(n) "
    "q = Add(c, b) r = Range(c, q, o) e = Cast<to=1>(r)",
    "a scale": "b = Constant<value=float[2]{1, 900000000}>() f = Cast<to=1>(n) q = Add(f, b) "
    'e = Resize<mode="nearest">(x, , q)',
    "an outer product": "b = Constant<value=int64[1]{30000}>() q = Add(n, b) u = Expand(s, q) "
    "p = Constant<value=int64[2]{-1, 1}>() v = Reshape(u, p) w = Transpose<perm=[1, 0]>(v) e = MatMul(v, w)",
    "many at once": "b = Constant<value=int64[1]{180000000}>() q = Add(n, b) "
    + " ".join(f"e{i} = Expand(s, q)" for i in range(10))
    + f" e = Sum({', '.join(f'e{i}' for i in range(10))})",
}
SIGNATURE = "(float[batch,4] x) => (float[batch,4] y)"


def _body(case: str) -> str:
    return FROM_VALUES.format(LARGE[case]) + " m = ReduceMean<keepdims=0>(e) y = Add(x, m)"


@pytest.fixture
def bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()  # what earlier tests left must not be freed within the budget of this one
    monkeypatch.setattr(memory_budget, "_switched_on", [True])
    monkeypatch.setattr(memory_budget, "spare", lambda: memory_budget.LEAST_SPARE)


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("case", LARGE)
def test_what_values_ask_for_is_bounded(tmp_path: Path, case: str, optimize: bool) -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    path = tiny_models.save(tmp_path, SIGNATURE, _body(case))
    with (
        OnnxRuntimeRunner(path, inputs=tiny_models.specs(path), optimize=optimize, threads=1) as runner,
        pytest.raises(ExportError, match="asks for more than the 0.8 GB of memory that its size allows") as caught,
    ):
        runner.infer({"x": np.zeros((2, 4), np.float32)})
    assert "came from someone else" in str(caught.value.hint)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@pytest.mark.usefixtures("bounded")
def test_it_is_bounded_while_it_is_loaded_too(tmp_path: Path) -> None:
    body = (
        "b = Constant<value=int64[1]{900000000}>() e = ConstantOfShape(b) m = ReduceMean<keepdims=0>(e) y = Add(x, m)"
    )
    path = tiny_models.save(tmp_path, SIGNATURE, body)
    with (
        pytest.raises(ExportError, match="asks for more than the 0.8 GB of memory"),
        OnnxRuntimeRunner(path, inputs=tiny_models.specs(path), threads=1) as runner,
    ):
        runner.infer({"x": np.zeros((2, 4), np.float32)})


def test_a_quarter_of_the_machine_is_any_models() -> None:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory_budget.LEAST_SPARE <= memory_budget.spare() <= memory_budget.MOST_SPARE
    assert memory_budget.spare() in (memory_budget.LEAST_SPARE, memory_budget.MOST_SPARE, machine // 4)


@pytest.mark.usefixtures("bounded")
def test_errors_of_other_causes_and_answers_pass() -> None:
    assert within(1 << 20, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(1 << 20, lambda: 1 // 0)


@pytest.mark.usefixtures("bounded")
def test_a_limit_of_the_users_is_not_blamed_on_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExportError, match="its size allows for$"):
        within(1 << 20, lambda: np.empty(1 << 30, np.uint8))
    monkeypatch.setattr(memory_budget, "_taken", lambda: (2**62, 0))  # more than any limit is left
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 45, before[1]))
    try:
        with pytest.raises(MemoryError):
            within(1 << 20, lambda: np.empty(1 << 30, np.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_library_bounds_nothing_of_the_process_it_is_in() -> None:
    assert within(1 << 20, lambda: np.empty(1 << 28, np.uint8)).size == 1 << 28


def test_larger_models_and_batches_may_take_more() -> None:
    one, four = np.zeros((1, 1000), np.float32), np.zeros((4, 1000), np.float32)
    assert budget(10**6, [one]) - budget(0, [one]) == 256 * 10**6  # of memory for each row
    assert budget(10**6, [four]) - budget(0, [four]) == 4 * 256 * 10**6
    assert budget(0, [one]) > budget(0)


def test_the_command_line_is_such_a_process(tmp_path: Path) -> None:
    model = tiny_models.parse(SIGNATURE, _body("pads").replace("900000000", "900000000000"))  # on any machine
    onnx.save(model, tmp_path / "m.onnx")
    command = [sys.executable, "-m", "dsr_export", "bench", "m.onnx", "m.onnx"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    assert "error: the model asks for more than" in ended.stderr and "Pad (node 'blocks." in ended.stderr
