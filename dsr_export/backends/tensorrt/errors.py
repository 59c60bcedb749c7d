"""What TensorRT says when it fails, as our error: with the node, its PyTorch module and a way out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import onnx

from dsr_export.backends.tensorrt.vendor import VendorLog
from dsr_export.errors import ExportError
from graphs.names import module_of
from graphs.targets import Target, or_in_onnxruntime

LONGEST = 400  # characters of one vendor message
SHOWN = 3
_UNSUPPORTED = frozenset({"UNSUPPORTED_NODE", "UNSUPPORTED_NODE_ATTR", "UNSUPPORTED_NODE_INPUT"})
_NO_DRIVER = ("cudaError 35", "cudaError 100", "no CUDA-capable device")


def parse_error(errors: Sequence[Any], model: onnx.ModelProto, log: VendorLog) -> ExportError:
    """From the parser's own errors (`IParserError`), which know their node."""
    if not errors:
        return ExportError(f"TensorRT cannot read the model: {_said(log) or 'it gives no reason'}")
    reasons = "; ".join(_parser_reason(error, model) for error in errors[:SHOWN])
    more = f"; and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
    unsupported = any(error.code().name in _UNSUPPORTED for error in errors)
    return ExportError(
        f"TensorRT cannot parse {reasons}{more}",
        hint=f"write that module with other ops{or_in_onnxruntime(model)}"
        if unsupported
        else "see the node with `dsr-export inspect`",
    )


def build_error(model: onnx.ModelProto, target: Target, log: VendorLog, error: Exception) -> ExportError:
    """From what the builder logged, which often quotes node names."""
    said = _said(log) or str(error)
    nodes = _nodes_named_in("\n".join(log.errors), model)
    where = f" at {', '.join(_place(node.name, node.op_type) for node in nodes)}" if nodes else ""
    if any(sign in said for sign in _NO_DRIVER):
        hint = "this build needs a working GPU driver; --target rtx or rtx:sm89 builds without one"
    else:
        hint = f"change that module, leave it in another precision{or_in_onnxruntime(model)}"
    return ExportError(f"building for target '{target.name}' failed{where}: {said}", hint=hint)


def _parser_reason(error: Any, model: onnx.ModelProto) -> str:
    text = _short(error.desc())
    if text in ("", "false"):  # the parser's assertion, quoted
        text = "it has no such op"
    if error.node_name():
        return f"{_place(error.node_name(), error.node_operator())}: {text}"
    op = error.func().removeprefix("import")  # attribute errors know their function only: importScatterElements
    nodes = [node for node in model.graph.node if node.op_type == op]
    where = " or ".join(_place(node.name, op) for node in nodes[:SHOWN]) or "the model"
    return f"{where}: {text}"


def _nodes_named_in(text: str, model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """At most three; a name that is the beginning of another one counts only where it stands alone."""
    found = [
        node for node in model.graph.node if node.name and re.search(rf"(?<![\w./]){re.escape(node.name)}(?!\w)", text)
    ]
    return found[:SHOWN]


def _place(name: str, op: str) -> str:
    return f"node '{name}' ({op}, module {module_of(name)})"


def _said(log: VendorLog) -> str:
    return "; ".join(dict.fromkeys(_short(message) for message in list(log.errors)[:SHOWN]))


def _short(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip()
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."
