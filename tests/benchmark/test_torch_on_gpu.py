"""PyTorch itself beside engines, on the CPU in the GPU's place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dsr_export.backends.cuda.driver import Cuda
from dsr_export.benchmark import gpu_facts, on_gpu
from tests.backends.tensorrt.driver_stand_in import Driver
from tests.benchmark.test_gpu import Timed
from tests.conftest import Cli


class Event:
    """A CUDA event that counts what is recorded."""

    clock = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        Event.clock += 2.5
        self.at = Event.clock

    def synchronize(self) -> None: ...

    def elapsed_time(self, last: Event) -> float:
        return last.at - self.at


@pytest.fixture
def torch_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch on the CPU in the GPU's place, uncompiled."""
    import torch

    from dsr_export.benchmark import torch_on_gpu

    monkeypatch.setattr(torch_on_gpu, "DEVICE", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch, "compile", lambda module, mode=None: module)


def test_pytorch_is_timed_beside_a_bundle(
    torch_gpu: None, digits_bundle: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")
    monkeypatch.setattr(gpu_facts, "open_cuda", lambda: Cuda(Driver()))
    monkeypatch.setattr(on_gpu, "engine_runner", lambda *_, graphs, say: Timed(1.25))
    asked = ("bench", "digits", digits_bundle, "--rounds", "3", "--warmup", "0", "--batch", "1")
    done = cli(*asked, "--runtime", "tensorrt-rtx", "--json")
    assert done.code == 0, done.err
    rows = {(row["name"], row["place"], row["graph"]): row for row in json.loads(done.out)["timings"]}
    torchs = [f"digits {how}" for how in ("eager", "torch.compile", "torch.compile, CUDA graphs")]
    assert list(dict.fromkeys(name for name, _, _ in rows)) == [*torchs, "digits.dsr"]
    assert rows["digits eager", "device", False]["median_ms"] == 2.5
    for graph in (False, True):  # eager has no graph: both are held against its stream
        assert rows["digits.dsr", "device", graph]["ratio"] == 0.5
    refused = cli(*asked)
    assert refused.code == 1 and "not compared with models on the CPU" in refused.err


def test_half_modules_take_and_give_floats(torch_gpu: None) -> None:
    from dsr_export.benchmark.torch_on_gpu import torch_contestants
    from dsr_export.families import load_subject
    from dsr_export.subject import Subject

    subject = load_subject("digits")
    assert isinstance(subject, Subject)
    inputs = subject.example(2, seed=0)
    with subject.reference() as reference:
        exact = reference.infer(inputs)["out"]
    for each in torch_contestants("digits", subject, half=True):
        with each.open("never") as runner:
            (made,) = runner.infer(inputs)
            (held,) = runner.infer_on_device({name: runner.upload(array) for name, array in inputs.items()})
        assert made.dtype == np.float32 and np.abs(made - exact).max() < 0.05
        np.testing.assert_array_equal(held.float().numpy(), made)


def test_without_a_gpu_pytorch_says_so(digits_bundle: Path, cli: Cli) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    done = cli("bench", "digits", digits_bundle, "--runtime", "onnxruntime-cuda")
    assert done.code == 1 and "sees no GPU, and 'digits' is a PyTorch model" in done.err
