"""Reading and writing ONNX files. Weights above a threshold go beside the model, since protobuf ends at 2 GB."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from graphs.errors import ExportError

EXTERNAL_ABOVE = 256 << 20  # bytes of weights; below it one file is handier
IR_VERSION = 10  # what opset 20 needs and every target reads


def load_model(path: Path, *, weights: bool = True) -> onnx.ModelProto:
    """The model at `path`. Raises `ExportError` where it is missing or no ONNX."""
    try:
        return onnx.load(path, load_external_data=weights)
    except FileNotFoundError as error:
        raise ExportError(f"{path} does not exist") from error
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise ExportError(f"{path} is not a readable ONNX model: {error}") from error


def save_model(model: onnx.ModelProto, path: Path) -> Path:
    """Writes `model`, and its weights to `<path>.data` where they are large."""
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if size < EXTERNAL_ABOVE:
        onnx.save(model, path)
    else:
        onnx.save(model, path, save_as_external_data=True, location=path.name + ".data", size_threshold=1024)
    return path


def load_graph(path: Path) -> gs.Graph:
    return gs.import_onnx(load_model(path))


def load_inferred_graph(path: Path) -> gs.Graph:
    """As `load_graph`, with the type and shape of every tensor inferred (on the graph without its weights)."""
    model = onnx.shape_inference.infer_shapes(load_model(path, weights=False), data_prop=True)
    onnx.load_external_data_for_model(model, str(path.parent))
    return gs.import_onnx(model)


def save_graph(graph: gs.Graph, path: Path) -> Path:
    """Writes a graph back as a model; the graph is toposorted and cleaned first."""
    graph.cleanup(remove_unused_graph_inputs=False).toposort()
    graph.opset = next((o.version for o in graph.import_domains or () if o.domain in ("", "ai.onnx")), graph.opset)
    graph.import_domains = None
    model = gs.export_onnx(graph, do_type_check=False, ir_version=IR_VERSION)
    return save_model(model, path)
