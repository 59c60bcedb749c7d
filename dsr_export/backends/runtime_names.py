"""What `--runtime` takes, and what the runners behind the names call themselves. Imports nothing: `--help` reads it."""

from __future__ import annotations

from typing import Literal, get_args

Runtime = Literal["auto", "onnxruntime", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)

CPU_RUNNER, CUDA_RUNNER = "onnxruntime", "onnxruntime-cuda"
GRAPH_RUNTIMES = ("onnxruntime", "onnxruntime-cuda")
"""Those that run the ONNX graph itself, and no engine."""


def runner_name(runtime: Runtime) -> str:
    """Of the runner that `runtime` opens, which is not `auto`: engines are called as their packages."""
    return runtime if runtime in GRAPH_RUNTIMES else runtime.replace("-", "_")
