"""A graph with every kind of GEMM that planning tells apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import numpy_helper

from graphs.files import load_inferred_graph

TOKENS, WIDTH = 16, 32
SHAPES = {
    "g": (WIDTH,),
    "embed": (WIDTH, WIDTH),
    "q": (WIDTH, WIDTH),
    "k": (WIDTH, WIDTH),
    "thin": (WIDTH, 8),
    "wide": (8, WIDTH),
    "ada": (WIDTH, WIDTH),
    "ada2": (WIDTH, WIDTH),
    "head": (WIDTH, WIDTH),
}
NODES = (
    ("embed/MatMul", "e = MatMul(x, embed)"),
    ("norm/Mul", "h = Mul(e, g)"),
    ("attn.q/MatMul", "qs = MatMul(h, q)"),
    ("attn.k/MatMul", "ks = MatMul(h, k)"),
    ("attn/Add", "s = Add(qs, ks)"),
    ("narrow.down/MatMul", "d = MatMul(s, thin)"),
    ("narrow.up/MatMul", "u = MatMul(d, wide)"),
    ("time.first/MatMul", "c = MatMul(t, ada)"),
    ("time.second/MatMul", "c2 = MatMul(c, ada2)"),
    ("time/ReduceMean", "m = ReduceMean(c2)"),
    ("time/Add", "z = Add(u, m)"),
    ("head/MatMul", "out = MatMul(z, head)"),
)


def small_model() -> onnx.ModelProto:
    """x [N, 16, 32] and a condition t [N, 32]."""
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> g (float[N,{TOKENS},{WIDTH}] x, float[N,{WIDTH}] t)'
        f" => (float[N,{TOKENS},{WIDTH}] out) {{ {' '.join(text for _, text in NODES)} }}"
    )
    rng = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        values = rng.standard_normal(shape).astype(np.float32) / np.float32(WIDTH**0.5)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    for node, (name, _) in zip(model.graph.node, NODES, strict=True):
        node.name = name
    return model


def small_graph(folder: Path) -> gs.Graph:
    """The same, with shapes."""
    onnx.save(small_model(), folder / "m.onnx")
    return load_inferred_graph(folder / "m.onnx")
