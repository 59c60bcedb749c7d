"""What no GPU may do on the quiet: a device that is not there, none at all, and memory that others hold."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dsr_export.backends.cuda.driver import open_cuda
from dsr_export.backends.onnxruntime_cuda import cuda_problem
from dsr_export.errors import RunnerError
from tests.gpu.conftest import Built

pytestmark = pytest.mark.gpu
LIMIT = 120  # seconds for one command
LEFT = 16 << 20  # bytes: no session starts in them


@pytest.fixture(autouse=True)
def bindings(capability: str) -> None:
    pytest.importorskip("cuda.bindings", reason="needs the package cuda-bindings")


@pytest.fixture
def provider(capability: str) -> None:
    if (problem := cuda_problem()) is not None:
        pytest.skip(problem)


def verified(built: Built, **environment: str) -> subprocess.CompletedProcess[str]:
    """`verify` on the GPU, in a process of its own."""
    line = [sys.executable, "-m", "dsr_export", "verify", str(built("digits", "fp16").path)]
    line += ["--runtime", "onnxruntime-cuda"]
    environment = {**os.environ, **environment}
    return subprocess.run(line, capture_output=True, text=True, timeout=LIMIT, check=False, env=environment)


def said(found: subprocess.CompletedProcess[str]) -> str:
    return " ".join(found.stderr.split())


def test_a_gpu_of_another_index_is_refused() -> None:
    with pytest.raises(RunnerError, match="no GPU with the index 99"):
        open_cuda(99)


@pytest.mark.parametrize("visible", ["", "99"])
def test_no_gpu_is_no_cpu_instead(built: Built, provider: None, visible: str) -> None:
    found = verified(built, CUDA_VISIBLE_DEVICES=visible)
    assert found.returncode == 1
    assert "CUDA_VISIBLE_DEVICES" in said(found) and "hint:" in said(found) and "Traceback" not in said(found)


def test_memory_that_others_hold_is_said(built: Built, provider: None) -> None:
    cuda = open_cuda()
    taken = []
    try:
        with cuda.current():
            free, _ = cuda.free_and_total()
            taken.append(cuda.call("cuMemAlloc", free - LEFT))
            found = verified(built)
    finally:
        for each in taken:
            cuda.give_back("cuMemFree", each)
        cuda.close()
    assert found.returncode == 1, found.stderr
    assert "too little free memory" in said(found) and "hint:" in said(found) and "Traceback" not in said(found)
