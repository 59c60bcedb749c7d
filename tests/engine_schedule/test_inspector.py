"""What TensorRT's inspector tells: the numbers of its engine, worked out by hand; whatever else it says, one reason."""

from __future__ import annotations

import copy
import json
from typing import Any

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsr_export.engine_schedule.facts import inspected_facts
from tests.backends.tiny_models import parse
from tests.engine_schedule.tiny_inspection import (
    ALPHA,
    ATTENDED,
    CAST,
    GEMM,
    LAYERS,
    MEAN,
    MHA,
    MLP,
    Q8,
    QKV,
    SPLIT,
    TEXT,
    W8,
    WIDE,
    B,
    W,
    apart,
    changed,
    generated,
    layer,
    tensor,
    text,
)
from tests.engine_schedule.tiny_plan import NODES, tiny_graph

GRAPH = tiny_graph()
HALF_TYPE = onnx.TensorProto.FLOAT16
Json = dict[str, Any]


def schedule(told: str) -> Json:
    found = inspected_facts(told, GRAPH, 2)
    assert found["schedule_problem"] is None, found["schedule_problem"]
    return found["schedule"]


def problem(told: str) -> str:
    found = inspected_facts(told, GRAPH, 2)
    assert found["schedule"] is None
    said = found["schedule_problem"]
    assert said.startswith("the schedule of this plan cannot be read: ")
    return said.split(": ", 1)[1]


def test_every_launch_has_its_kind_its_bytes_and_its_product() -> None:
    found = schedule(TEXT)
    told = [(each["kind"], each["kernel"], each["read"], each["written"]) for each in found["launches"]]
    assert told == [
        ("copy", "Reformat", {"float32": 16384}, {"float16": 8192}),
        ("gemm", "gemm", {"float16": 8192 + 6144 + 192, "float32": 4}, {"float16": 24576}),
        ("attention", "_gemm_mha_v2", {"float16": 3 * 8192}, {"float16": 8192}),
        ("reduction", "__myl_CastMean", {"float16": 8192}, {"float32": 512}),
        ("pointwise", "__myl_MulRounCast", {"float16": 8192, "float32": 512}, {"int8": 4096}),
        ("gemm", "gemm", {"int8": 4096 + 1024}, {"float32": 16384}),
        ("topk", "__myl_Topk", {"float32": 16384}, {"float32": 2048, "int64": 4096}),
    ]
    products = {i: (each["computes"], each["operations"]) for i, each in enumerate(found["launches"])}
    assert products[1] == ("float16", 2 * 128 * 96 * 32) and products[5] == ("int8", 2 * 128 * 32 * 32)
    assert products[2] == ("float16", 2 * 2 * (64 * 64 * 32) * 2) and products[3] == (None, None)
    assert [each["block"] for each in found["launches"]] == [None, *["blocks.0"] * 5, "root"]


def test_they_add_up_to_the_record_that_an_rtx_plan_gives() -> None:
    found = schedule(TEXT)
    assert (found["batch"], found["moved_bytes"], len(found["launches"])) == (2, 161_988, 7)
    assert found["kinds"]["gemm"] == {"launches": 2, "moved_bytes": 39_108 + 21_504}
    assert found["attention"] == {"fused": 1, "of": 1, "apart": [], "because": {}}
    assert [(each["node"], each["computes"], each["chosen"]) for each in found["gemms"]] == [
        (NODES[1], "float16", None),
        (NODES[8], "int8", "int8"),
    ]
    assert [(each["bytes"], each["made_by"], each["read_by"]) for each in found["fp32_between"]] == [
        (512, 3, [4]),
        (16384, 5, [6]),
    ]
    assert found["estimates"]["l4"]["graph_ms"] > 0 and "unlisted_weights" not in found
    assert json.loads(json.dumps(found)) == found


def test_constants_may_be_listed_as_such() -> None:
    assert schedule(text(apart(LAYERS, "Constants"))) == schedule(TEXT)


def test_weights_that_are_not_listed_are_those_of_the_graph() -> None:
    """As by TensorRT 10.10: bias and factor are in no sum then, and the record says whose weights these are."""
    found, whole = schedule(text(apart(LAYERS, None))), schedule(TEXT)
    assert found["moved_bytes"] == whole["moved_bytes"] - 192 - 4
    assert found["launches"][1]["read"] == {"float16": 8192 + 6144}
    assert found["gemms"] == whole["gemms"] and found["unlisted_weights"] == 2


@pytest.mark.parametrize(
    ("place", "tactic", "said"),
    [
        (MLP, "ampere_i16832gemm_256x128_ldg8_nn_v1", "does not tell what it multiplies"),
        (MLP, "sm80_xmma_gemm_f16f16_f16f32_f32_nn", "multiplies float16"),
        (GEMM, "sm80_xmma_gemm_i8f32_i8i32_f32_tn_n", "multiplies int8"),
    ],
)
def test_an_unlisted_weight_is_of_the_type_that_its_kernel_names(place: int, tactic: str, said: str) -> None:
    layers = apart(LAYERS, None)
    layers[place] = layers[place] | {"TacticName": tactic}
    assert problem(text(layers)).endswith(said)


def test_an_unlisted_weight_of_floats_needs_no_name_of_a_kernel() -> None:
    layers = apart(LAYERS, None)
    layers[GEMM] = layers[GEMM] | {"TacticName": "ampere_h16816gemm_256x128_ldg8_nn_v1"}
    assert schedule(text(layers))["gemms"][0]["computes"] == "float16"


def test_an_unlisted_weight_is_read_by_the_kernel_that_multiplies_without_being_a_gemm() -> None:
    layers = apart(LAYERS, None)
    layers[GEMM] = generated("__myl_MulSumAdd", [CAST], [QKV], NODES[1])
    found = schedule(text(layers))
    assert found["launches"][1]["kind"] == "reduction" and found["launches"][1]["read"] == {"float16": 8192 + 6144}
    assert found["gemms"][0]["computes"] is None
    layers[GEMM] = generated("__myl_MulSumAdd", [CAST], [QKV], NODES[2])
    assert "tells too little of 'blocks.0.attn.qkv/MatMul'" in problem(text(layers))


def test_products_that_are_one_kernel_have_all_their_weights() -> None:
    """As in the log of TensorRT 10.10: queries, keys and values in one GEMM, their heads as views of its result."""
    body = "q = MatMul(x, a) k = MatMul(x, b) v = MatMul(x, c) t = Transpose<perm=[0, 2, 1]>(k) m = MatMul(q, t) "
    body += "p = Softmax(m) o = MatMul(p, v) g = MatMul(o, d) y = Relu(g)"
    graph = parse("(float16[1,40,64] x) => (float16[1,40,32] y)", body)
    for name, columns in (("a", 64), ("b", 64), ("c", 64), ("d", 32)):
        values = bytes(2 * 64 * columns)
        graph.graph.initializer.append(onnx.helper.make_tensor(name, HALF_TYPE, [64, columns], values, raw=True))
    nodes = [f"blocks.{i}.attn/MatMul" for i in range(8)]
    kept = "]\x1e[ONNX Layer: ".join
    heads, turned = tensor("__mye56053", [2, 40, 32], "Half"), tensor("__mye56053", [2, 32, 40], "Half")
    x, made = tensor("x", [1, 40, 64], "Half"), tensor("__mye56053", [3, 40, 64], "Half")
    attended, y = tensor("__mye54417", [2, 40, 32], "Half"), tensor("y", [1, 40, 32], "Half")
    attention = kept([nodes[4], "blocks.5.attn/Softmax", nodes[6]])
    layers = [
        layer("qkv_myl0_0", "gemm", [x], [made], kept(nodes[:3]), HALF),
        generated("_gemm_mha_v2", [heads, turned, heads], [attended], attention),
        layer(
            "__myl_Fc_myl0_2", "fusion", [attended | {"Dimensions": [1, 40, 64]}], [y], nodes[7], f"{HALF}_by_fusion"
        ),
    ]
    found = inspected_facts(json.dumps({"Layers": layers, "Bindings": ["x", "y"]}), graph, 1)
    assert found["schedule_problem"] is None
    told = found["schedule"]
    assert [each["read"]["float16"] for each in told["launches"]] == [
        2 * (40 * 64 + 3 * 64 * 64),
        2 * 3 * 40 * 64,
        2 * (40 * 64 + 64 * 32),
    ]
    assert [each["operations"] for each in told["launches"]] == [
        3 * 2 * 40 * 64 * 64,
        2 * 2 * (2 * 40 * 40 * 32),
        2 * 40 * 64 * 32,
    ]
    assert told["unlisted_weights"] == 4 and {gemm["computes"] for gemm in told["gemms"]} == {"float16"}
    assert told["attention"]["fused"] == 1


def test_one_tensor_read_in_parts_is_as_much_as_its_parts_and_never_more_than_it_is() -> None:
    assert schedule(changed(MHA, Inputs=[SPLIT, TURNED_ALIKE, SPLIT]))["launches"][2]["read"] == {"float16": 24576}
    twice = changed(MEAN, Inputs=[ATTENDED, ATTENDED])
    assert schedule(twice)["launches"][3]["read"] == {"float16": 8192}


TURNED_ALIKE = tensor("__mye56053", [2, 32, 64], "Half")


def test_an_attention_under_another_name_is_one_by_its_nodes() -> None:
    other = LAYERS[MHA] | {"TacticName": "_fused_sdp_0xabc"}
    found = schedule(text([*LAYERS[:MHA], other, *LAYERS[MHA + 1 :]]))
    assert found["launches"][2]["kind"] == "attention" and found["attention"]["fused"] == 1


def test_an_attention_in_several_kernels_is_apart() -> None:
    scores = tensor("scores", [2, 64, 64], "Half")
    parts = [
        layer("qk_myl0_3", "gemm", [SPLIT, TURNED_ALIKE], [scores], NODES[3], HALF),
        generated("__myl_MaxrSubExpSumDiv", [scores], [scores | {"Name": "p"}], NODES[4]),
        layer("pv_myl0_4", "gemm", [scores | {"Name": "p"}, SPLIT], [ATTENDED], NODES[5], HALF),
    ]
    found = schedule(text([*LAYERS[:MHA], *parts, *LAYERS[MHA + 1 :]]))
    assert found["attention"]["fused"] == 0 and found["attention"]["apart"] == [NODES[4]]
    assert [each["kind"] for each in found["launches"][2:5]] == ["gemm", "reduction", "gemm"]
    assert [each["operations"] for each in found["launches"][2:5]] == [2 * 2 * 64 * 64 * 32, None, 2 * 2 * 64 * 64 * 32]
    assert found["launches"][2]["read"] == {"float16": 2 * 8192}


HALF = "sm80_xmma_gemm_f16f16_f16f16_f16_nn_n"


def test_operands_that_become_floats_inside_of_the_kernel_are_told_so() -> None:
    assert schedule(changed(MLP, TacticName=HALF))["gemms"][1]["computes"] == "float16"
    mixed = changed(MLP, TacticName=HALF, Inputs=[Q8 | {"Format/Datatype": "Half"}, W8])
    layers = json.loads(mixed)["Layers"]
    layers[7] = layers[7] | {"Outputs": [Q8 | {"Format/Datatype": "Half"}]}
    assert schedule(text(layers))["gemms"][1]["computes"] == "float16 x int8"


def test_a_convolution_outside_of_myelin_tells_its_weights_by_number() -> None:
    picture, maps = tensor("x", [2, 3, 8, 8], "Row major linear FP16 format"), tensor("m", [2, 16, 4, 4], "FP16")
    patches = layer("patches", "CaskConvolution", [picture], [maps]) | {
        "OutMaps": 16,
        "Weights": {"Type": "Half", "Count": 16 * 3 * 4},
        "Bias": {"Type": "Half", "Count": 16},
        "HasDynamicFilter": 0,
    }
    found = schedule(text([patches, *LAYERS]))["launches"][0]
    assert (found["kind"], found["computes"], found["operations"]) == ("convolution", "float16", 2 * 512 * 12)
    assert found["read"] == {"float16": 2 * (384 + 192 + 16)}
    assert "does not tell its weights" in problem(text([patches | {"HasDynamicFilter": 1}, *LAYERS]))
    assert "does not tell its weights" in problem(text([patches | {"OutMaps": 0}, *LAYERS]))


def test_what_only_renames_a_tensor_is_no_launch_and_breaks_no_chain() -> None:
    flat = WIDE | {"Name": "flat", "Dimensions": [128, 1]}
    layers = [*LAYERS[: MEAN + 1], layer("r_myl0_1", "reshape", [WIDE], [flat])]
    layers += [LAYERS[MEAN + 1] | {"Inputs": [ATTENDED, flat]}, *LAYERS[MEAN + 2 :]]
    found, whole = schedule(text(layers)), schedule(TEXT)
    assert found["launches"] == whole["launches"] and found["fp32_between"] == whole["fp32_between"]
    layers[MEAN + 1] = layer("r_myl0_1", "reshape", [WIDE], [flat | {"Dimensions": [64, 1]}])
    assert "does not only rename" in problem(text(layers))


def test_sizes_on_the_host_are_no_traffic() -> None:
    size = tensor("n", [1], "Int64", Location="Host")
    assert schedule(changed(MEAN, Inputs=[ATTENDED, size])) == schedule(TEXT)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("__myl_TraMov", "copy"),
        ("__myl_ReshSlicConc", "copy"),
        ("__myl_AddCasMeaSubMul", "reduction"),
        ("__myl_MaxMinMul", "pointwise"),
        ("__myl_MaxrSubExpSum", "reduction"),
        ("__myl_AddReshSlicEtc", "reduction"),  # cut off: its node is a ReduceMean
        ("__myl_AddReshSlic", "pointwise"),
        ("__myl_TopkMul", "topk"),
    ],
)
def test_a_generated_kernel_is_what_its_name_lists(name: str, kind: str) -> None:
    told = LAYERS[MEAN] | {"TacticName": f"{name}_0x1f", "Name": f"{name}_myl3_1"}
    assert schedule(text([*LAYERS[:MEAN], told, *LAYERS[MEAN + 1 :]]))["launches"][3]["kind"] == kind


DYNAMIC = [-1, 64, 32]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("", "no JSON"),
        (TEXT[: len(TEXT) // 2], "no JSON"),
        ("[" * 100_000, "no JSON"),
        (TEXT.replace("96]", "NaN]", 1), "NaN is no number"),
        ("[]", "no object"),
        ('{"Layers": []}', "0 layers"),
        ('{"Layers": ["a", "b"], "Bindings": []}', "only names of layers"),
        ('{"Bindings": []}', "no list of Layers"),
        (text([*LAYERS[:3], "a"]), "a layer is no object"),
        (changed(GEMM, LayerType="cutensor"), "unknown kind 'cutensor'"),
        (changed(GEMM, LayerType=None), "the kind of the layer 'qkv_myl0_1' is None"),
        (changed(MEAN, Inputs=[ATTENDED | {"Dimensions": DYNAMIC}]), "a size of the tensor '__mye54417' is not known"),
        (changed(MEAN, Inputs=[ATTENDED | {"Dimensions": [10**30]}]), "a size of the tensor"),
        (changed(MEAN, Inputs=[ATTENDED | {"Dimensions": [2.5]}]), "a size of the tensor '__mye54417' is 2.5"),
        (changed(MEAN, Inputs=[ATTENDED | {"Dimensions": [True]}]), "is True"),
        (changed(MEAN, Inputs=[ATTENDED | {"Dimensions": [1 << 40] * 3}]), "more axes or elements"),
        (changed(MEAN, Inputs=[ATTENDED | {"Dimensions": [1] * 65}]), "more axes or elements"),
        (changed(MEAN, Inputs=[ATTENDED | {"Format/Datatype": "N/A due to dynamic shapes"}]), "unknown type"),
        (changed(MEAN, Inputs=[ATTENDED | {"Format/Datatype": "Half or Float"}]), "unknown type"),
        (changed(MEAN, Inputs=[ATTENDED | {"Location": "Elsewhere"}]), "unknown place 'Elsewhere'"),
        (changed(MEAN, Inputs=[ATTENDED, ATTENDED | {"Format/Datatype": "Float"}]), "is of two types"),
        (changed(MEAN, Outputs=[]), "writes nothing"),
        (changed(MEAN, Metadata="some words"), "are no ONNX nodes"),
        (changed(MEAN, Metadata=["x"]), "a list, no text"),
        (changed(MEAN, Metadata="[ONNX Layer: root/Sort]"), "names the node 'root/Sort', which the graph lacks"),
        (changed(MEAN, Name="\ud800"), "no text"),
        (changed(MEAN, TacticName="", Name="some thing"), "no name that is known"),
        (changed(MHA, Metadata=""), "names no node"),
        (changed(MHA, Inputs=[SPLIT]), "an attention makes [2, 64, 32] of"),
        (
            changed(GEMM, Inputs=[CAST, W | {"Dimensions": [32, 97]}]),
            "has 3072 weights, and its constants are [32, 97]",
        ),
        (changed(GEMM, Inputs=[CAST | {"Dimensions": [2, 64, 31]}, W]), "makes [2, 64, 96] of [2, 64, 31]"),
        (changed(GEMM, Inputs=[CAST, W | {"Format/Datatype": "Float"}]), "multiplies float16, and reads"),
        (changed(GEMM, Inputs=[CAST, W | {"Format/Datatype": "Bool"}], TacticName=""), "a product of 'bool'"),
        (changed(GEMM, Metadata="", Inputs=[CAST, ALPHA, B | {"Dimensions": [96]}]), "has 1 operands"),
        (text([LAYERS[MEAN], *LAYERS]), "before it is made"),
        (text(LAYERS[:-1]), "nothing makes the output 'i'"),
        (TEXT.replace('"y", "i"]', '"y"]'), "nothing makes the output 'i'"),
    ],
)
def test_what_is_not_understood_leaves_the_reason(told: str, said: str) -> None:
    assert said in problem(told)


def test_launches_that_name_no_node_say_nothing_of_the_graph() -> None:
    plain = [generated("__myl_Mul", each["Inputs"], each["Outputs"], "") for each in LAYERS if each["Outputs"]]
    assert problem(text(plain)) == "no launch names a node of the graph"


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["Half", "kgen", "gemm", "Layers", "__myl_Mean_0x1", "Device", "qkv_myl0_1", "y", "x"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(sorted(LAYERS[2])), inner, max_size=6),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(_VALUES)
def test_any_value_is_a_record_or_one_reason(value: Any) -> None:
    for told in (json.dumps(value), text([value]), json.dumps({"Layers": value, "Bindings": value})):
        _record_or_reason(told)


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_any_value_in_the_place_of_one_is_a_record_or_one_reason(data: st.DataObject) -> None:
    told = copy.deepcopy(json.loads(TEXT))
    here: Any = told
    for _ in range(data.draw(st.integers(1, 6))):
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(here[key], dict | list) and here[key] and data.draw(st.booleans()):
            here = here[key]
            continue
        here[key] = data.draw(_VALUES)
        break
    _record_or_reason(json.dumps(told))


def _record_or_reason(told: str) -> None:
    found = inspected_facts(told, GRAPH, 2)
    assert json.loads(json.dumps(found, allow_nan=False).encode()) == found
    assert (found["schedule"] is None) == isinstance(found["schedule_problem"], str)
    if found["schedule"] is not None:
        assert found["schedule"]["moved_bytes"] > 0 and found["schedule"]["launches"]
