"""Graphs in ONNX text, rewritten and run: what the tests of optimizations share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
import onnxruntime

from graphs.rewrite import Rewrite, RewriteReport, run

Array = npt.NDArray[Any]
HEADER = '<ir_version: 10, opset_import: ["" : 20]>\n'


@dataclass(frozen=True)
class Rewritten:
    """A graph before and after one rewrite."""

    before: onnx.ModelProto
    after: onnx.ModelProto
    report: RewriteReport


def parsed(text: str, arrays: Mapping[str, Array]) -> onnx.ModelProto:
    """`g (inputs) => (outputs) { nodes }`, with `arrays` as its constants."""
    model = onnx.parser.parse_model(HEADER + text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    return model


def rewritten(model: onnx.ModelProto, rewrite: Rewrite) -> Rewritten:
    """Runs `rewrite`, and checks that its result is a valid model. Both have their nodes in graphsurgeon's order."""
    graph = gs.import_onnx(onnx.shape_inference.infer_shapes(model, data_prop=True))
    before = _exported(graph)
    report = run(graph, rewrite)
    return Rewritten(before, _exported(graph), report)


def _exported(graph: gs.Graph) -> onnx.ModelProto:
    graph.cleanup(remove_unused_graph_inputs=False).toposort()
    model = gs.export_onnx(graph, do_type_check=False, ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def listing(model: onnx.ModelProto) -> str:
    """One line a node: `name: outputs = Op(inputs)`."""
    lines = [f"{n.name}: {', '.join(n.output)} = {n.op_type}({', '.join(n.input)})" for n in model.graph.node]
    return "\n".join(lines) + "\n"


def infer(model: onnx.ModelProto, feed: Mapping[str, Array], *, optimized: bool = True) -> list[Array]:
    """The outputs in ONNX Runtime, as written where not `optimized`."""
    return [np.asarray(value) for value in _session(model, optimized).run(None, dict(feed))]


def fused_operators(model: onnx.ModelProto, path: str) -> list[str]:
    """The ops that ONNX Runtime makes of the graph; `path` is a scratch file."""
    _session(model, True, path)
    return [node.op_type for node in onnx.load(path).graph.node]


def _session(model: onnx.ModelProto, optimized: bool, path: str = "") -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = path
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
