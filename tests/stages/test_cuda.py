"""A build where a GPU is: its graph is judged there as well, in ONNX Runtime's CUDA kernels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dsr_export.backends.onnxruntime_cuda import cuda_problem
from dsr_export.building import build as building
from dsr_export.building.build import Build
from dsr_export.errors import RunnerError
from dsr_export.pipeline import export
from dsr_export.progress import Quiet, Silent
from dsr_export.stages import parity as parity_stage
from tests.backends.cuda_stand_in import CudaStandIn, stand_in
from tests.conftest import Cli
from tests.pipeline_parts import denoiser_config


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[CudaStandIn]:
    yield stand_in(monkeypatch)
    cuda_problem.cache_clear()


def test_a_build_checks_its_graph_on_the_gpu_or_says_why_not(
    provider: CudaStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:

    said: list[str] = []

    class Noting(Silent):
        def note(self, text: str) -> None:
            said.append(text)

    def checks(gpu: bool) -> bool:
        monkeypatch.setattr(building, "gpu_available", lambda: gpu)
        cuda_problem.cache_clear()
        return Build(denoiser_config(tmp_path / "b.dsr"), Noting()).checks_cuda

    assert not checks(gpu=False) and checks(gpu=True) and not said
    provider.starts = False
    assert not checks(gpu=True)
    assert len(said) == 1 and said[0].endswith("the graph is checked on the CPU alone")


@pytest.mark.parametrize("opens", [False, True])  # the second leaves its verdict in the cache
def test_a_build_where_a_gpu_is_reports_its_verdict(
    provider: CudaStandIn, opens: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cli: Cli
) -> None:
    """And goes on without it where the GPU does not open the graph: its memory may be another process's."""

    def full(*_: Any, **__: Any) -> Any:
        raise RunnerError("the GPU has too little free memory for this model")

    monkeypatch.setattr(building, "gpu_available", lambda: True)
    if not opens:
        monkeypatch.setattr(parity_stage, "cuda_runner", full)
    said: list[str] = []
    monkeypatch.setattr(Quiet, "note", lambda self, text: said.append(text))
    report = export(denoiser_config(tmp_path / "b.dsr"), reporter=Quiet()).report()
    runtimes = {row["runtime"] for row in report["parity"]}
    assert report["passed"] and runtimes == ({"onnxruntime", "onnxruntime-cuda"} if opens else {"onnxruntime"})
    assert opens or "too little free memory for this model; the graph is checked on the CPU alone" in said[-1]
    assert ("parity-cuda" in {stage["name"] for stage in report["stages"]}) == opens
