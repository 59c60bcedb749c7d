"""Small ONNX models from onnx's text form."""

from __future__ import annotations

import onnx
import onnx.parser

SIGNATURE = "(float[N,4] x) => (float[N,4] out)"


def onnx_model(body: str, signature: str = SIGNATURE, *, after: str = "") -> onnx.ModelProto:
    """A model of opset 20 whose nodes are `body`; `after` are its functions, of the domain `mine`."""
    imports = 'opset_import: ["": 20, "mine": 1]' if after else 'opset_import: ["": 20]'
    return onnx.parser.parse_model(f"<ir_version: 10, {imports}> g {signature} {{ {body} }} {after}")
