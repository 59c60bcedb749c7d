"""ONNX Runtime's CUDA provider on a machine without a GPU: sessions that run on the CPU and say that they do not."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

from dsr_export.backends import onnxruntime_cuda, session_calls
from dsr_export.backends.cuda import diagnosis
from dsr_export.backends.onnxruntime_cuda import NAME, PROVIDERS


@dataclass
class CudaStandIn:
    """`asked`: each session's providers. `on_cpu`: operators that it has no kernel for. `failure`: of every run.

    `graphs`: the number of the CUDA graph of every run; `forgetful`: a captured one computes nothing.
    """

    asked: list[Any] = field(default_factory=list)
    on_cpu: set[str] = field(default_factory=set)
    starts: bool = True
    failure: str | None = None
    graphs: list[int] = field(default_factory=list)
    forgetful: bool = False
    uncapturable: bool = False


def copy(copies: Iterable[tuple[int, int, int]]) -> None:
    for to, source, size in copies:
        ctypes.memmove(to, source, size)


def stand_in(patch: pytest.MonkeyPatch) -> CudaStandIn:
    here = CudaStandIn()
    real = onnxruntime.InferenceSession

    class Session(real):  # type: ignore[misc, valid-type]
        def __init__(self, model: Any, options: Any, *, providers: Any, **rest: Any) -> None:
            assert rest["enable_fallback"] is False
            here.asked.append(providers)
            if here.uncapturable and "enable_cuda_graph" in dict(providers)[NAME]:
                raise RuntimeException("This session cannot use the graph capture feature")
            super().__init__(model, options, providers=["CPUExecutionProvider"], **rest)
            self._claims = NAME in dict(providers) and here.starts

        def get_providers(self) -> list[str]:
            return [name for name, _ in PROVIDERS] if self._claims else ["CPUExecutionProvider"]

        def get_provider_graph_assignment_info(self) -> Iterable[Any]:
            for part in super().get_provider_graph_assignment_info():
                nodes = list(part.get_nodes())
                elsewhere = any(node.op_type in here.on_cpu for node in nodes)
                yield SimpleNamespace(
                    ep_name="CPUExecutionProvider" if elsewhere else NAME, get_nodes=lambda nodes=nodes: nodes
                )

        def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
            if here.failure is not None:
                raise RuntimeError(here.failure)
            here.graphs.append(int(options.get_run_config_entry("gpu_graph_id")))
            if here.graphs[-1] < 0 or not here.forgetful:
                super().run_with_iobinding(binding, options)

    patch.setattr(onnxruntime, "InferenceSession", Session)
    patch.setattr(onnxruntime, "get_available_providers", lambda: [name for name, _ in PROVIDERS])
    patch.setattr(onnxruntime_cuda, "_MEMORY", "cpu")
    patch.setattr(session_calls, "copy_within", copy)
    patch.setattr(diagnosis, "gpu_problem", lambda: None)
    patch.setattr(diagnosis, "_load_error", lambda library: "")
    onnxruntime_cuda.cuda_problem.cache_clear()
    return here
