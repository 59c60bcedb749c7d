"""What an engine inspector would tell of the graph of `tiny_plan`, written by hand in the form that is documented.

Everything is at batch 2: x [2, 64, 32] is cast, projected, attended to itself, quantised, projected again, and sorted.
"""

from __future__ import annotations

import json
from typing import Any

from tests.engine_schedule.tiny_plan import ATTENTION, NODES

Json = dict[str, Any]
OF_MHA = "_gemm_mha_v2_0x957a2fe283f77dcf35c142c1390a3e6a"
HALF_GEMM = "sm80_xmma_gemm_f16f16_f16f32_f32_nn_n_tilesize32x32x64_stage6_warpsize2x2x1_tensor16x8x16"
INT8_GEMM = "sm80_xmma_gemm_i8f32_i8i32_f32_tn_n_tilesize128x128x64_stage3_warpsize2x2x1_tensor16x8x32"


def tensor(name: str, dims: list[int], kind: str, **more: str) -> Json:
    return {"Name": name, **more, "Dimensions": dims, "Format/Datatype": kind}


def layer(name: str, kind: str, reads: list[Json], writes: list[Json], layers: str = "", tactic: str = "") -> Json:
    """`layers` as in `tiny_plan`: the names of nodes, with what stands between two of them."""
    metadata = f"[ONNX Layer: {layers}]" if layers else ""
    told = {"Name": name, "LayerType": kind, "Inputs": reads, "Outputs": writes}
    return {**told, "TacticName": tactic, "StreamId": 0, "Metadata": metadata}


def generated(name: str, reads: list[Json], writes: list[Json], layers: str) -> Json:
    return layer(f"{name}_myl0_7", "kgen", reads, writes, layers, f"{name}_0xf2543c36ff9f104bbb1655b0183afb47")


X = tensor("x", [2, 64, 32], "Row major linear FP32", Location="Device")
CAST = tensor("Reformatted x", [2, 64, 32], "Row major linear FP16 format", Location="Device")
W, B = tensor("__mye583_dconst", [32, 96], "Half"), tensor("b _ broadcast_constantHalf", [1, 96], "Half")
ALPHA = tensor("__mye546_alpha", [1], "Float")
QKV, SPLIT, TURNED = (tensor("__mye56053", dims, "Half") for dims in ([2, 64, 96], [2, 64, 32], [2, 32, 64]))
ATTENDED, WIDE = tensor("__mye54417", [2, 64, 32], "Half"), tensor("__myln_k_arg__bb1_12", [2, 64, 1], "Float")
Q8, W8 = tensor("__mye54_q", [128, 32], "Int8"), tensor("__mye589_dconst", [32, 32], "Int8")
Y, TOP = tensor("y", [2, 64, 32], "Float"), tensor("top", [2, 64, 4], "Float")
PLACES = tensor("i", [2, 64, 4], "Int64")

LAYERS = [
    layer("Reformatting CopyNode for Input Tensor 0", "Reformat", [X], [CAST]) | {"Origin": "REFORMAT"},
    layer("dummy_shape_call__mye622_0_myl9_0", "shape_call", [], []),
    layer("qkv_myl0_1", "gemm", [CAST, W, ALPHA, B], [QKV], f"{NODES[1]}]\x1e[ONNX Layer: {NODES[2]}", HALF_GEMM),
    generated("_gemm_mha_v2", [SPLIT, TURNED, SPLIT], [ATTENDED], ATTENTION),
    layer("signal_0", "signal", [], []),
    layer("wait_0", "wait", [], []),
    generated("__myl_CastMean", [ATTENDED], [WIDE], NODES[6]),
    generated("__myl_MulRounCast", [ATTENDED, WIDE], [Q8], NODES[7]),
    layer("mlp_myl0_6", "gemm", [Q8, W8], [Y], NODES[8], INT8_GEMM),
    generated("__myl_Topk", [Y], [TOP, PLACES], NODES[9]),
]
GEMM, MHA, MEAN, MLP = 2, 3, 6, 8
"""Places in `LAYERS`."""
CONSTANTS = (W["Name"], ALPHA["Name"], B["Name"], W8["Name"])


def text(layers: list[Any]) -> str:
    return json.dumps({"Layers": layers, "Bindings": ["x", "y", "i"]})


TEXT = text(LAYERS)


def apart(layers: list[Json], key: str | None) -> list[Json]:
    """The same with constants listed under `key`, or not at all."""
    found = []
    for each in layers:
        own = [tensor for tensor in each["Inputs"] if tensor["Name"] in CONSTANTS]
        told = each | {"Inputs": [tensor for tensor in each["Inputs"] if tensor not in own]}
        found.append(told | ({key: own} if key else {}))
    return found


def changed(place: int, **fields: Any) -> str:
    """With other fields in one layer; None takes a field away."""
    told = LAYERS[place] | fields
    kept = {key: value for key, value in told.items() if value is not None}
    return text([*LAYERS[:place], kept, *LAYERS[place + 1 :]])
