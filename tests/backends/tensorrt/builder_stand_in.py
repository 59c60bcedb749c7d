"""A stand-in for TensorRT 10 that builds any graph, and whose engine launches a kernel for each node of it.

What its inspector tells has the documented form; the stand-in for a GPU that would run the engine is `engine_stand_in`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from dsr_export.backends.tensorrt import build
from dsr_export.backends.tensorrt.vendor import Vendor, VendorLog
from dsr_export.engine_schedule.graph_sites import GraphSites

VERSION, PLAN = "10.13.2.6", b"ptrt" + bytes(12) + (44).to_bytes(8, "little") + bytes([10, 13, 2, 6]) + bytes(16)
_KINDS = {1: "Float", 10: "Half", 16: "BFloat16", 3: "Int8", 6: "Int32", 7: "Int64", 9: "Bool"}
_ENUMS = {1: "FLOAT", 10: "HALF", 16: "BF16", 3: "INT8", 6: "INT32", 7: "INT64", 9: "BOOL"}


@dataclass
class TensorRT:
    """`tell`: the graph and the shapes that are set -> the inspector's text. `asked` is what it was built with."""

    log: VendorLog = field(default_factory=VendorLog)
    tell: Callable[[onnx.ModelProto, dict[str, tuple[int, ...]]], str] = field(default_factory=lambda: told_of)
    asked: dict[str, Any] = field(default_factory=dict)
    loads: bool = True
    alive: list[str] = field(default_factory=list)
    strategy: str | None = None
    graph: onnx.ModelProto | None = None


class _Held:
    """Something of the vendor's, which must go before what it was made from."""

    def __init__(self, tensorrt: TensorRT, name: str) -> None:
        self.tensorrt, self.name = tensorrt, name
        tensorrt.alive.append(name)

    def __del__(self) -> None:
        assert self.tensorrt.alive.pop() == self.name


class _Engine(_Held):
    def create_execution_context(self, strategy: str) -> _Context:
        self.tensorrt.strategy = strategy
        return _Context(self.tensorrt, "context")

    def create_engine_inspector(self) -> _Inspector:
        return _Inspector(self.tensorrt, "inspector")


class _Context(_Held):
    shapes: dict[str, tuple[int, ...]]

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes = {**getattr(self, "shapes", {}), name: shape}
        return all(size > 0 for size in shape)


class _Inspector(_Held):
    execution_context: _Context | None = None

    @property
    def get_engine_information(self) -> Callable[[str], str]:
        """A function that does not hold the inspector: an error that it raises would, and with it the engine."""
        assert self.execution_context is not None and self.tensorrt.graph is not None
        tell, graph, shapes = self.tensorrt.tell, self.tensorrt.graph, self.execution_context.shapes

        def told(form: str) -> str:
            assert form == "json"
            return tell(graph, shapes)

        return told


def stand_in(patch: pytest.MonkeyPatch) -> TensorRT:
    """From now on engines of TensorRT are built by the stand-in, as on a GPU of compute capability 8.9."""
    tensorrt = TensorRT()

    class Runtime(_Held):
        engine_host_code_allowed = True

        def __init__(self, logger: Any) -> None:
            super().__init__(tensorrt, "runtime")

        def deserialize_cuda_engine(self, plan: memoryview) -> _Engine | None:
            assert not self.engine_host_code_allowed
            if not tensorrt.loads:
                tensorrt.log.take("ERROR", "CUDA is out of memory")
            return _Engine(tensorrt, "engine") if tensorrt.loads and bytes(plan) == PLAN else None

    class Parser:
        num_errors = 0

        def __init__(self, network: Any, logger: Any) -> None:
            self.network = network

        def parse_from_file(self, path: str) -> bool:
            tensorrt.graph = onnx.load(path, load_external_data=False)
            self.network.take(tensorrt.graph.graph)
            return True

    @contextlib.contextmanager
    def verbosity(level: int) -> Iterator[None]:
        yield

    trt = SimpleNamespace(
        __version__=VERSION,
        BuilderFlag=SimpleNamespace(TF32="tf32"),
        ExecutionContextAllocationStrategy=SimpleNamespace(STATIC="static", USER_MANAGED="user managed"),
        LayerInformationFormat=SimpleNamespace(JSON="json"),
        NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED="strongly typed"),
        OnnxParser=Parser,
        ProfilingVerbosity=SimpleNamespace(DETAILED="detailed"),
        Runtime=Runtime,
        init_libnvinfer_plugins=lambda logger, namespace: None,
    )
    vendor = Vendor(
        backend="tensorrt",
        trt=trt,
        polygraphy=_polygraphy(),
        failure=RuntimeError,
        create_config=lambda **asked: lambda builder, network: _config(tensorrt, asked),
        logger=None,
        log=tensorrt.log,
        _verbosity=verbosity,
    )
    patch.setattr(Vendor, "polygraphy_version", "0.49")
    patch.setattr(build, "load_vendor", lambda backend: vendor)
    patch.setattr(build, "compute_capability", lambda: "8.9")
    return tensorrt


def _config(tensorrt: TensorRT, asked: dict[str, Any]) -> Any:
    tensorrt.asked = asked
    return SimpleNamespace(clear_flag=lambda flag: None, get_flag=lambda flag: False)


def _polygraphy() -> Any:
    class Profile(dict[str, Any]):
        def add(self, name: str, **shapes: Any) -> None:
            self[name] = shapes

    def from_network(parts: Any, config: Callable[[Any, Any], Any]) -> Callable[[], bytes]:
        def build_plan() -> bytes:
            config(*parts[:2])
            return PLAN

        return build_plan

    create = lambda strongly_typed: lambda: (None, _Network())  # noqa: E731
    return SimpleNamespace(CreateNetwork=create, Profile=Profile, EngineBytesFromNetwork=from_network)


class _Network:
    num_layers = 0

    def take(self, graph: onnx.GraphProto) -> None:
        self.inputs, self.outputs = (list(map(_value, each)) for each in (graph.input, graph.output))
        self.num_inputs, self.num_outputs = len(self.inputs), len(self.outputs)

    def get_input(self, i: int) -> Any:
        return self.inputs[i]

    def get_output(self, i: int) -> Any:
        return self.outputs[i]

    def get_flag(self, flag: str) -> bool:
        return flag == "strongly typed"


def _value(told: onnx.ValueInfoProto) -> Any:
    kind = told.type.tensor_type
    shape = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim]
    return SimpleNamespace(name=told.name, dtype=SimpleNamespace(name=_ENUMS[kind.elem_type]), shape=shape)


def told_of(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]) -> str:
    """A launch for each node but those that are folded; weights stand among the inputs, as by TensorRT 10.5."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
            dim.dim_value = size
    del fixed.graph.value_info[:]
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    known = {each.name: each.type.tensor_type for each in (*graph.value_info, *graph.input, *graph.output)}
    sizes = {name: ([dim.dim_value for dim in kind.shape.dim], kind.elem_type) for name, kind in known.items()}
    sizes |= {each.name: (list(each.dims), each.data_type) for each in graph.initializer}
    sites = GraphSites(model)

    def tensor(name: str) -> dict[str, Any]:
        dims, kind = sizes[name]
        return {"Name": name, "Dimensions": dims, "Format/Datatype": _KINDS[kind]}

    layers = []
    for i, node in enumerate(model.graph.node):
        if sites.fixed.issuperset(node.output):
            continue
        product = node.op_type in ("MatMul", "Gemm")
        reads = [name for name in node.input if name in sizes and not (name in sites.fixed and sizes[name][1] == 7)]
        layers.append(
            {
                "Name": f"{node.name}_myl0_{i}" if product else f"__myl_{node.op_type}_myl0_{i}",
                "LayerType": "gemm" if product else "kgen",
                "Inputs": list(map(tensor, reads)),
                "Outputs": list(map(tensor, node.output)),
                "TacticName": "cublas" if product else f"__myl_{node.op_type}_0x{i:032x}",
                "StreamId": 0,
                "Metadata": f"[ONNX Layer: {node.name}]",
            }
        )
    names = [each.name for each in (*model.graph.input, *model.graph.output)]
    return json.dumps({"Layers": layers, "Bindings": names})
