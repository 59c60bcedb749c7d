"""The residual stream is found however the blocks are written, and what is none says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from graphs.errors import ExportError
from graphs.foreign.brought_in import name_nodes, read_foreign
from graphs.rewrite import Miss
from graphs.structure.mlp_activation import Activation
from graphs.structure.pinned_shapes import PINNED, pinned_graph, unpin
from graphs.structure.residual_stream import Stream, find_stream
from tests.graphs.plain_vit import ConvNet, export, plain_vit

STYLES = ["pre", "parallel", "sandwich", "gated", "cross", "flat"]


def _found(path: Path) -> Stream:
    model = read_foreign(path)
    name_nodes(model)
    return find_stream(pinned_graph(model, path.parent))


@pytest.mark.parametrize("style", STYLES)
def test_blocks_are_found_however_they_are_arranged(tmp_path: Path, style: str) -> None:
    stream = _found(export(plain_vit(style), tmp_path / "m.onnx"))
    assert [block.name for block in stream.blocks] == ["blocks.0", "blocks.1", "blocks.2"]
    assert [(block.tokens, block.channels) for block in stream.blocks] == [(16, 24)] * 3
    assert stream.misses == ()
    for block, following in zip(stream.blocks, stream.blocks[1:], strict=False):
        assert following.entry is block.output
    assert stream.names == "3 blocks of [batch, 16, 24]: blocks.0 to blocks.2"


@pytest.mark.parametrize("mlp", ["tanh", "gelu", "silu", "swiglu"])
@pytest.mark.parametrize(("norm", "opset"), [("layer", 13), ("layer", 20), ("rms", 13), ("rms", 20)])
def test_norms_spelt_out_and_every_activation(tmp_path: Path, mlp: str, norm: str, opset: int) -> None:
    path = export(plain_vit(mlp=mlp, norm=norm), tmp_path / "m.onnx", opset=opset)
    norms = sum(node.op_type == "LayerNormalization" for node in onnx.load(path).graph.node)
    assert norms == (0 if opset == 13 else 1 if norm == "rms" else 7)  # the final one is a LayerNorm
    for block in _found(path).blocks:
        assert isinstance(block.activation, Activation)
        assert block.activation.width == 40
        readers = block.activation.tensor.outputs
        assert [node.op for node in readers] == ["MatMul"] and readers[0].name == f"{block.name}.fc2/MatMul"


def test_a_flattened_gemm_shows_its_activation_with_tokens(tmp_path: Path) -> None:
    path = export(plain_vit("flat"), tmp_path / "m.onnx")
    assert any(node.op_type == "Gemm" for node in onnx.load(path).graph.node)
    for block in _found(path).blocks:
        assert isinstance(block.activation, Activation)
        assert list(block.activation.tensor.shape) == [PINNED, 16, 40]


def test_rows_that_join_in_mid_stream_change_the_count(tmp_path: Path) -> None:
    stream = _found(export(plain_vit("late"), tmp_path / "m.onnx"))
    assert [block.tokens for block in stream.blocks] == [16, 19, 19]


def test_a_static_batch_and_modules_without_names(tmp_path: Path) -> None:
    model = onnx.load(export(plain_vit(), tmp_path / "m.onnx", batch=1))
    for node in model.graph.node:
        node.name = ""
    onnx.save(model, tmp_path / "m.onnx")
    names = [block.name for block in _found(tmp_path / "m.onnx").blocks]
    assert len(set(names)) == 3 and all(name.startswith("graph/Add_") for name in names)


def test_shapes_computed_from_shapes_are_known_and_the_batch_is_named_again(tmp_path: Path) -> None:
    path = export(plain_vit(), tmp_path / "m.onnx")
    graph = pinned_graph(onnx.load(path), tmp_path)
    computed = [node for node in graph.nodes if node.op == "Shape"]
    assert computed and not any(tensor.shape is None for node in graph.nodes for tensor in node.outputs)
    scores = next(node.outputs[0] for node in graph.nodes if node.op == "Softmax")
    assert list(scores.shape) == [PINNED, 4, 16, 16]
    unpin(graph)
    assert list(scores.shape) == ["batch", 4, 16, 16]


BLOCK = """
    n{i} = LayerNormalization(h{i}, g) q{i} = MatMul(n{i}, w) t{i} = Transpose<perm=[0,2,1]>(q{i})
    s{i} = MatMul(q{i}, t{i}) p{i} = Softmax(s{i}) v{i} = MatMul(p{i}, q{i}) o{i} = MatMul(v{i}, w)
    m{i} = Add(h{i}, o{i}) k{i} = LayerNormalization(m{i}, g) u{i} = MatMul(k{i}, w) a{i} = Relu(u{i})
    f{i} = MatMul(a{i}, w)
"""


def _written(folder: Path, signature: str, body: str) -> Path:
    """Blocks in ONNX text over `g` [8], `w` [8, 8] and `c` [1, 6, 8]; `h0` is the first block's tokens."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["":20]> g {signature} {{ {body} }}')
    rng = np.random.default_rng(0)
    arrays = {"g": np.ones(8), "w": rng.standard_normal((8, 8)), "c": rng.standard_normal((1, 6, 8))}
    model.graph.initializer.extend(numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items())
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


def _two(first: str = "h1 = Add(m0, f0)", second: str = "out = Add(m1, f1)") -> str:
    return "h0 = Add(x, c)" + BLOCK.format(i=0) + first + BLOCK.format(i=1) + second


TOKENS = "(float[N,6,8] x) => (float[N,6,8] out)"


def test_passing_nodes_and_a_sum_with_a_table_do_not_break_the_stream(tmp_path: Path) -> None:
    first = "r = Add(f0, m0) e = Identity(r) d = Dropout(e) h1 = Add(d, c)"
    stream = _found(_written(tmp_path, TOKENS, _two(first)))
    assert len(stream.blocks) == 2
    assert stream.blocks[0].output.name == "r"  # the block's own output, before the table


def test_the_stream_that_reaches_the_output_is_chosen(tmp_path: Path) -> None:
    """A second stream only feeds the first one's attention, as the text of an MMDiT does."""
    side = "z0 = Mul(x, c) zn = LayerNormalization(z0, g) zq = MatMul(zn, w) zt = Transpose<perm=[0,2,1]>(zq) "
    side += "zs = MatMul(zq, zt) zo = MatMul(zs, zq) zp = MatMul(zo, w) z1 = Add(z0, zp) "
    main = _two().replace("v1 = MatMul(p1, q1)", "y1 = Add(q1, z1) v1 = MatMul(p1, y1)")
    stream = _found(_written(tmp_path, TOKENS, side + main))
    assert [block.output.name for block in stream.blocks] == ["h1", "out"]


AMBIGUOUS: dict[str, tuple[str, str, str]] = {
    "two outputs": (
        "(float[N,6,8] x) => (float[N,6,8] out, float[N,6,8] other)",
        "h0 = Add(x, c)" + BLOCK.format(i=0) + "out = Add(m0, f0) h1 = Mul(x, c)" + BLOCK.format(i=1)
        + "other = Add(m1, f1)",
        r"2 residual streams reach the outputs: 1 block of \[batch, 6, 8\]: \S+; 1 block of \[batch, 6, 8\]: \S+$",
    ),
    "two that meet": (
        "(float[N,6,8] x) => (float[N,12,8] out)",
        "h0 = Add(x, c)" + BLOCK.format(i=0) + "l = Add(m0, f0) h1 = Mul(x, c)" + BLOCK.format(i=1)
        + "r = Add(m1, f1) h2 = Concat<axis=1>(l, r)" + BLOCK.format(i=2) + "out = Add(m2, f2)",
        r"two residual streams meet at \S+: that of \S+ \[batch, 6, 8\] and that of \S+ \[batch, 6, 8\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_two_streams_are_refused_by_name(tmp_path: Path, case: str) -> None:
    signature, body, message = AMBIGUOUS[case]
    with pytest.raises(ExportError, match=message) as refused:
        _found(_written(tmp_path, signature, body))
    assert "layers would be ambiguous" in str(refused.value.hint)


def _text(body: str, signature: str = TOKENS) -> Callable[[Path], Path]:
    return lambda folder: _written(folder, signature, body)


NONE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "post-norm": (
        lambda folder: export(plain_vit("post"), folder / "m.onnx"),
        r"near misses: blocks.0/Add: its branch reads the tokens without a norm before it, at blocks.0.attn.q/MatMul$",
    ),
    "post-norm with cross-attention": (
        _text(
            "h0 = Add(x, c)" + BLOCK.format(i=0).replace("n0 = LayerNormalization(h0, g)", "n0 = Identity(h0)")
            + "h1 = Add(k0, f0) y = LayerNormalization(h1, g) cq = MatMul(y, w) ck = MatMul(z, w) "
            "ct = Transpose<perm=[0,2,1]>(ck) cs = MatMul(cq, ct) co = MatMul(cs, ck) cp = MatMul(co, w) "
            "r = Add(y, cp) out = LayerNormalization(r, g)",
            "(float[N,6,8] x, float[N,5,8] z) => (float[N,6,8] out)",
        ),
        r"no residual stream .*: its branch reads the tokens without a norm before it, at graph/MatMul",
    ),
    "mlp-only": (
        lambda folder: export(plain_vit("mlp-only"), folder / "m.onnx"),
        r"near misses: blocks.0/Add: an MLP in a chain of residuals without attention$",
    ),
    "convnet": (
        lambda folder: export(ConvNet().eval(), folder / "m.onnx"),
        r"near misses: root/Add: a residual of \[batch, 3, 16, 16\], not of tokens \[batch, N, D\]$",
    ),
    "tokens before the batch": (
        _text(
            "h0 = Transpose<perm=[1,0,2]>(x)" + BLOCK.format(i=0)
            + "h1 = Add(m0, f0) out = Transpose<perm=[1,0,2]>(h1)"
        ),
        r"a residual of \[6, batch, 8\], whose first axis is not the batch",
    ),
    "no residual": (_text("y = MatMul(x, w) out = Add(y, c)"), "near misses: none"),
    "macaron": (
        lambda folder: export(plain_vit("macaron"), folder / "m.onnx"),
        r"not made of blocks.*: blocks.1/Add: an MLP without attention before it",
    ),
    "attention last": (
        _text(_two(second="out = Identity(m1)")),
        r"not made of blocks.*: graph/Add_\d+: attention without an MLP behind it",
    ),
    "an adapter between blocks": (
        _text(_two("r = Add(m0, f0) b = MatMul(r, w) h1 = Add(r, b)")),
        r"something else than blocks; near misses: graph/Add_\d+: its branch reads the tokens without a norm",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NONE)
def test_near_misses_name_the_node_and_the_reason(tmp_path: Path, case: str) -> None:
    make, message = NONE[case]
    with pytest.raises(ExportError, match=message) as refused:
        _found(make(tmp_path))
    assert "pre-norm transformers" in str(refused.value.hint)


def test_an_embedder_before_the_first_attention_is_no_block(tmp_path: Path) -> None:
    embedder = "e0 = Add(x, c) en = LayerNormalization(e0, g) eu = MatMul(en, w) ea = Relu(eu) ef = MatMul(ea, w) "
    body = embedder + _two().replace("h0 = Add(x, c)", "h0 = Add(e0, ef)")
    stream = _found(_written(tmp_path, TOKENS, body))
    assert len(stream.blocks) == 2 and stream.blocks[0].entry.name == "h0"
    assert [miss.reason for miss in stream.misses] == ["an MLP before the first attention: no block"]


def test_what_may_lie_behind_the_last_weight(tmp_path: Path) -> None:
    tail = "b = Add(f1, g) i = Identity(b) s = Mul(i, g) n = LayerNormalization(s, g) d = Dropout(n) out = Add(m1, d)"
    block = _found(_written(tmp_path, TOKENS, _two(second=tail))).blocks[1]
    assert isinstance(block.activation, Activation) and block.activation.tensor.name == "a1"


NO_ACTIVATION = {
    "linear": ("a1 = Relu(u1)", "a1 = Identity(u1)", "no non-linearity lies before graph/MatMul"),
    "one weight": ("f1 = MatMul(a1, w)", "z = Add(a1, v1) f1 = MatMul(z, w)", "attention and MLP with one weight"),
    "an op between": ("out = Add(m1, f1)", "f = Relu(f1) out = Add(m1, f)", "Relu graph/Relu_1 lies between"),
}


@pytest.mark.parametrize("case", NO_ACTIVATION)
def test_a_block_without_an_mlp_activation_says_why(tmp_path: Path, case: str) -> None:
    old, new, reason = NO_ACTIVATION[case]
    body = f"h1 = Add(x, c) {BLOCK.format(i=1)} out = Add(m1, f1)".replace(old, new)
    if case == "one weight":  # attention and MLP beside each other
        body = body.replace("m1 = Add(h1, o1) k1 = LayerNormalization(m1, g)", "k1 = Identity(n1)")
        body = body.replace("out = Add(m1, f1)", "out = Add(h1, f1)")
    activation = _found(_written(tmp_path, TOKENS, body)).blocks[0].activation
    assert isinstance(activation, Miss) and reason in activation.reason
