"""What the stages are called that compare outputs: who times one names it so, and JUnit finds its time by that."""

from __future__ import annotations

from typing import Final

GRAPH: Final = "parity"
CUDA: Final = "parity-cuda"
ENGINE: Final = "parity-engine"
"""Of a build, whose only model is its own: the typed graph in ONNX Runtime, the same on a GPU, and an engine."""
RUNTIME_GRAPH: Final = "parity-runtime-graph"
"""The graph with operators of ONNX Runtime's own, which it runs in the place of `model.onnx`."""
ENGINE_GRAPH: Final = "parity-engine-graph"
"""Of a verification: what engines are made of, in ONNX Runtime."""
STEP: Final = "parity-step"
STEP_ENGINE: Final = "parity-step-engine"
"""The graph that holds a whole step of the sampler, and an engine of it."""

_BUILT = {"onnxruntime": GRAPH, "onnxruntime-cuda": CUDA}


def verified_on(runtime: str) -> str:
    """Of a verification; those of a component have its prefix."""
    return f"{GRAPH}-{runtime}"


def component_prefix(component: str | None) -> str:
    """Before the name of each stage of a component."""
    return "" if component is None else f"{component}/"


def compares(name: str, component: str | None, runtime: str) -> bool:
    """Whether the stage `name`, of a build or a verification, has compared that model's outputs in that runtime."""
    prefix = component_prefix(component)
    graphs = (RUNTIME_GRAPH, ENGINE_GRAPH) if runtime == "onnxruntime" else ()
    verified = {prefix + name for name in (verified_on(runtime), *graphs)}
    return name in verified or (component is None and name == _BUILT.get(runtime, ENGINE))
