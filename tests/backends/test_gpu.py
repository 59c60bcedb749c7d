"""Why no GPU is used, told by what the driver answers."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from dsr_export.backends import gpu
from dsr_export.backends.cuda.clocks import clocks


class Answers:
    """A driver that starts with `code`, and sees `count` devices of compute capability 8.9."""

    def __init__(self, code: int, count: int) -> None:
        self.code, self.count = code, count

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self.code

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self.count
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:  # noqa: N802
        value._obj.value = {75: 8, 76: 9}[attribute]
        return 0

    def cuDeviceGetPCIBusId(self, place: Any, length: int, device: Any) -> int:  # noqa: N802
        place.value = b"0000:41:00.0"
        return 0

    def cuCtxSynchronize(self) -> int:  # noqa: N802
        return self.code


@pytest.mark.parametrize(
    ("code", "count", "visible", "said"),
    [
        (0, 1, None, None),
        (100, 0, None, "there is no GPU here"),
        (0, 0, None, "there is no GPU here"),
        (100, 0, "7", "CUDA_VISIBLE_DEVICES is '7', and no GPU is left of it"),
        (0, 0, "", "CUDA_VISIBLE_DEVICES is '', and no GPU is left of it"),
        (101, 0, "1,9", "CUDA_VISIBLE_DEVICES is '1,9'"),
        (46, 0, None, "in use by another process"),
        (803, 0, None, "kernel module are of different versions (CUDA error 803)"),
        (999, 0, None, "it says no more (CUDA error 999)"),
    ],
)
def test_the_cause_is_the_drivers_own(
    monkeypatch: pytest.MonkeyPatch, code: int, count: int, visible: str | None, said: str | None
) -> None:
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: Answers(code, count))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = gpu.gpu_problem()
    assert gpu.gpu_available() == (said is None)
    assert found is None if said is None else said in str(found)


def test_a_gpu_is_called_by_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """`nvidia-smi` counts GPUs that CUDA_VISIBLE_DEVICES hides: their clocks would be told as this one's."""
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: Answers(0, 1))
    assert gpu.pci_bus() == "0000:41:00.0"
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: Answers(100, 0))
    assert gpu.pci_bus() is None and set(clocks(None).values()) == {None}


def test_waiting_for_the_gpu_says_where_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: Answers(0, 1))
    gpu.finish_all()
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: Answers(719, 1))
    with pytest.raises(RuntimeError, match="CUDA error 719"):
        gpu.finish_all()


def test_asking_which_engines_the_suite_runs_chooses_neither_tensorrt_nor_tensorrt_rtx() -> None:
    """Polygraphy reads its choice when it is imported, and the first who imports it chooses for all."""
    asked = "from tests.gpu import engine_kinds\nengine_kinds.engine_kind('rtx', '8.9')\nimport sys\n"
    ended = "sys.exit('polygraphy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked + ended], capture_output=True, text=True, check=False)
    if "Skipped" in done.stderr:
        pytest.skip("needs the rtx extra")
    assert done.returncode == 0, done.stderr
