"""The text of a small plan, written by hand after real ones: a cast, a fused GEMM, an attention, an integer GEMM.

x [N, 64, 32] is cast, projected, attended to itself, quantised, projected again, and sorted; N is known at run time.
"""

from __future__ import annotations

import onnx
import onnx.parser

BATCH = '"n_proxy.1"'
ROWS = '"rows_proxy.1"'
FUSED = "blocks.0.attn.qkv/MatMul]\x1e[ONNX Layer: blocks.0.attn.qkv/Add"
ATTENTION = "blocks.0.attn/MatMul_1]\x1e[ONNX Layer: blocks.0.attn/Softmax]\x1f[ONNX Layer: blocks.0.attn/MatMul"
NODES = (
    "root/Cast",
    "blocks.0.attn.qkv/MatMul",
    "blocks.0.attn.qkv/Add",
    "blocks.0.attn/MatMul",
    "blocks.0.attn/Softmax",
    "blocks.0.attn/MatMul_1",
    "blocks.0.norm/ReduceMean",
    "dsr/quantize/blocks.0.mlp/QuantizeLinear",
    "blocks.0.mlp/MatMul",
    "root/TopK",
)


def header(version: int, inputs: str, outputs: str, regions: str = "") -> str:
    return (
        f"header {{\n  version = {version}\n  n_streams = 1\n{regions}"
        f"  inputs={{ {inputs} }}\n  outputs={{ {outputs} }}\n}}\n"
    )


def tensor(name: str, dims: str, strides: str, kind: str, more: str = 'region="devmem"') -> str:
    const = f"const_payload_size={more.split()[0]} " if more[0].isdigit() else ""
    region = more.split()[-1]
    return (
        f'  tensor={{ alignment=128 {const}dims={{ {dims} }} mem_prop=0 name="{name}" offset=0 rank0=0 {region} '
        f"stride_order={{ 0 }} strides={{ {strides} }} type={kind} }}\n"
    )


def view(base: str, name: str, dims: str, strides: str, kind: str) -> str:
    return (
        f'  sub_tensor={{ base="{base}" const_offset=0 dims={{ {dims} }} mem_prop=0 name="{name}" offset=0 rank0=0 '
        f"stride_order={{ 0 }} strides={{ {strides} }} type={kind} }}\n"
    )


def function(name: str, reads: str, writes: str, layers: str, reduces: int = 0, sizes: int = 0) -> str:
    return (
        f"  function={{ name={name} fqn={name}_0x5a args={{ {reads} {writes} }} input_args={{ {reads} }} "
        f"shape_args_count={sizes} output_args={{ {writes} }} kernel_kind=1 reduction_algo_kind={reduces} binary = 0 "
        f'grid = {{ 4 1 1 }} block = {{ 256 1 1 }} stream=0 layers="[ONNX Layer: {layers}]" swap_ab=false }}\n'
    )


def library(name: str, reads: str, writes: str, layers: str) -> str:
    return (
        f'  fully_connected={{ name="{name}" output={{{writes} }} input={{{reads} }} stream=0 trA=false trB=false m=0 '
        f'n=0 k=0 source=cask5 layers="[ONNX Layer: {layers}]" }}\n'
    )


def shape(kind: str, made: str, *read: str) -> str:
    names = " ".join(f'"{name}"' for name in read)
    return f'  {kind}={{ name="{kind}_{made}" output={{"{made}" }} input={{{names} }} stream=0  layers="" }}\n'


REGIONS = (
    "  region = { name=devmem size=65536 alignment=128 instance=0 type=user place=accelerator unified=false }\n"
    "  region = { name=hmem size=64 alignment=128 instance=0 type=system place=host unified=false }\n"
    "  region = { name=consts size=9000 alignment=128 instance=0 type=system place=accelerator constant=true }\n"
)
ENGINE = "".join(
    [
        header(5, '"x.1" "all_shapeInput.1"', '"y.1" "i.1"', REGIONS),
        "descriptors {\n",
        tensor("all_shapeInput.1", "1", "1", "int64", 'region="hmem"'),
        tensor("n_proxy.1", "1", "1", "int64", 'region="hmem"'),
        tensor("rows_proxy.1", "1", "1", "int64", 'region="hmem"'),
        tensor("x.1", f"{BATCH} 64 32", "2048 32 1", "float", 'region=""'),
        tensor("h", f"{ROWS} 32", "32 1", "half"),
        tensor("w", "32 96", "96 1", "half", "6144 region=consts"),
        tensor("b", "1 96", "96 1", "half", "192 region=consts"),
        tensor("qkv", f"{BATCH} 64 96", "6144 96 1", "half"),
        view("qkv", "q^deref", f"{BATCH} 64 32", "6144 96 1", "half"),
        view("qkv", "k^deref", f"{BATCH} 32 64", "6144 1 96", "half"),
        view("qkv", "v^deref", f"{BATCH} 64 32", "6144 96 1", "half"),
        tensor("attended", f"{BATCH} 64 32", "2048 32 1", "half"),
        tensor("wide", f"{BATCH} 64 1", "64 1 1", "float"),
        tensor("q8", f"{ROWS} 32", "32 1", "int8"),
        tensor("w8", "32 32", "1 32", "int8", "1024 region=consts"),
        tensor("alpha", "1", "1", "float", "4 region=hmem"),
        tensor("y.1", f"{ROWS} 32", "32 1", "float", 'region=""'),
        tensor("top", f"{ROWS} 4", "4 1", "float"),
        tensor("i.1", f"{ROWS} 4", "4 1", "int32", 'region=""'),
        "}\nmain {\n label bb1: \n",
        '  shape_call={ name="sizes_0" stream=0  layers="" subg_id=0 }\n',
        function("__myl_Cast", '"x.1" "n_proxy.1"', '"h"', "root/Cast", sizes=1),
        '  runtime_fusion={ name=__myl_FcAdd input_args={ "b" "h" "w" "n_proxy.1" } output_args={ "qkv" } binary=0 '
        f'scratchspace={{"s" }} stream=0 layers="[ONNX Layer: {FUSED}]" backbone=gemm }}\n',
        function("_gemm_mha_v2", '"q^deref" "k^deref" "v^deref" "n_proxy.1"', '"attended"', ATTENTION, sizes=1),
        '  signal={ name="two_streams" stream=0 event=1 layers="" }\n',
        '  wait={ name="in_step" stream=1 event=1 layers="" }\n',
        function("__myl_CastMean", '"attended"', '"wide"', "blocks.0.norm/ReduceMean", reduces=2),
        function("__myl_MulRounCast", '"attended" "wide"', '"q8"', "dsr/quantize/blocks.0.mlp/QuantizeLinear"),
        library("blocks.0.mlp/MatMul", '"q8" "w8" "alpha"', '"y.1"', "blocks.0.mlp/MatMul"),
        function("__myl_Topk", '"y.1"', '"top" "i.1"', "root/TopK", reduces=16),
        "}\nshape_main {\n label bb2: \n",
        shape("copy", "n", "all_shapeInput.1"),
        '  memset={ name="c" output={"c64" }  src="64i64" stream=0 }\n',
        shape("mul", "rows", "n", "c64"),
        shape("geq", "check", "n", "c64"),
        '  assert={ name=n_check input={"check" } stream=0 msg="a message\nover lines; " }\n',
        shape("copy", "n_proxy.1", "n"),
        shape("copy", "rows_proxy.1", "rows"),
        "}\n",
    ]
)
FALLBACK = "".join(
    [
        header(4, '"b" "h" "w" "n_proxy.1"', '"qkv"'),
        "descriptors {\n",
        tensor("n_proxy.1", "1", "1", "int64", 'region=""'),
        tensor("qkv", f"{ROWS} 96", "96 1", "half", 'region=""'),
        tensor("h", f"{ROWS} 32", "32 1", "half", 'region=""'),
        tensor("product", f"{ROWS} 96", "96 1", "half", 'region=""'),
        tensor("w", "32 96", "96 1", "half", 'region=""'),
        tensor("b", "1 96", "96 1", "half", 'region=""'),
        "}\nmain {\n label bb1:\n",
        library("qkv", '"h" "w"', '"product"', "blocks.0.attn.qkv/MatMul"),
        '  add={ name="sum" output={"qkv" } input={"product" "b" } stream=0  layers="" }\n',
        "}\n",
    ]
)
PLAN = b"vtrt\x00\xff" + ENGINE.encode() + b"\x00\x01kernels { here }\x00" + FALLBACK.encode() + b"\x00weights"
"""All of it, behind the tag of a real plan and among bytes that are none of it."""


def tiny_graph() -> onnx.ModelProto:
    """The graph that the plan would be of."""
    body = """
        h = Cast<to=10>(x) g = MatMul(h, w) s = Add(g, b) q, k, v = Split<axis=2, num_outputs=3>(s)
        kt = Transpose<perm=[0, 2, 1]>(k) m = MatMul(q, kt) p = Softmax(m) o = MatMul(p, v) r = ReduceMean(o)
        q8 = QuantizeLinear(o, scale, zero) d = DequantizeLinear(q8, scale, zero)
        dw = DequantizeLinear(w8, scale, zero) y = MatMul(d, dw) top, i = TopK(y, four)
    """
    signature = "(float[n,64,32] x) => (float[n,64,32] y, int64[n,64,4] i)"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]>\n g {signature} {{ {body} }}')
    named = dict(zip("hgsmpory", NODES, strict=False)) | {"q8": NODES[7], "y": NODES[8], "top": NODES[9]}
    for node in model.graph.node:
        node.name = named.get(node.output[0], f"root/{node.op_type}_{node.output[0]}")
    model.graph.initializer.extend(
        onnx.helper.make_tensor(name, kind, dims, bytes(size), raw=True)
        for name, kind, dims, size in [
            ("w", onnx.TensorProto.FLOAT16, (32, 96), 6144),
            ("b", onnx.TensorProto.FLOAT16, (96,), 192),
            ("scale", onnx.TensorProto.FLOAT16, (), 2),
            ("zero", onnx.TensorProto.INT8, (), 1),
            ("w8", onnx.TensorProto.INT8, (32, 32), 1024),
            ("four", onnx.TensorProto.INT64, (1,), 8),
        ]
    )
    return model
