"""What the report tells of a schedule: the graph's attentions and GEMMs in it; a damaged plan tells nothing."""

from __future__ import annotations

import json
from typing import Any

import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dsr_export.engine_schedule.facts import schedule_facts
from tests.engine_schedule.tiny_plan import ATTENTION, ENGINE, FALLBACK, NODES, PLAN, tiny_graph

GRAPH = tiny_graph()
FACTS = schedule_facts(PLAN, GRAPH, 2)
FIRST = PLAN.index(ENGINE.encode())
TEXT = [*range(FIRST, FIRST + len(ENGINE)), *range(PLAN.index(FALLBACK.encode()), len(PLAN))]


def test_the_facts_are_json_and_say_what_became_of_the_graph() -> None:
    found = FACTS["schedule"]
    assert FACTS["schedule_problem"] is None and json.loads(json.dumps(FACTS)) == FACTS
    assert found["batch"] == 2 and len(found["launches"]) == 7
    assert found["moved_bytes"] == sum(sum([*e["read"].values(), *e["written"].values()]) for e in found["launches"])
    assert found["attention"] == {"fused": 1, "of": 1, "apart": [], "because": {}}
    assert found["gemms"] == [
        {"node": NODES[1], "computes": "float16", "chosen": None, "chosen_integer": False},
        {"node": NODES[8], "computes": "int8", "chosen": "int8", "chosen_integer": True},
    ]


def test_devices_that_lack_a_type_are_named_in_the_place_of_their_estimates() -> None:
    assert FACTS["schedule"]["not_estimated"] == {}
    found = schedule_facts(PLAN.replace(b"type=int8", b"type=fp8_e4m3"), GRAPH, 2)["schedule"]
    assert found["not_estimated"] == {name: f"{name} has no FP8" for name in ("orin-agx", "orin-nx")}
    assert "orin-agx" not in found["estimates"] and "l4" in found["estimates"]


def test_an_attention_in_several_kernels_is_apart() -> None:
    apart = PLAN.replace(ATTENTION.encode(), NODES[5].encode(), 1)
    assert schedule_facts(apart, GRAPH, 2)["schedule"]["attention"] == {
        "fused": 0,
        "of": 1,
        "apart": [NODES[4]],
        "because": {},
    }


def test_fp32_between_kernels_is_declared_where_the_graph_computes_in_fp32() -> None:
    statistics, product = FACTS["schedule"]["fp32_between"]
    assert statistics["made_by"] == 3 and not statistics["declared"]  # no type of it is told
    assert product["made_by"] == 5 and not product["declared"]
    told = onnx.ModelProto()
    told.CopyFrom(GRAPH)
    wide = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("r", "y")]
    told.graph.value_info.extend(wide)
    statistics, product = schedule_facts(PLAN, told, 2)["schedule"]["fp32_between"]
    assert statistics["declared"]
    assert not product["declared"]  # the output of a GEMM that was chosen to be integer


def test_a_plan_of_another_graph_is_not_understood() -> None:
    other = PLAN.replace(b"Layer: root/TopK", b"Layer: root/Sort")
    found = schedule_facts(other, GRAPH, 2)
    reason = "the schedule of this plan cannot be read: it names the node 'root/Sort', which the graph lacks"
    assert found == {"schedule": None, "schedule_problem": reason}


def test_a_product_of_what_nothing_multiplies_leaves_no_schedule() -> None:
    """The estimates know no peak for it, and would end with an error of their own."""
    found = schedule_facts(PLAN.replace(b"type=int8", b"type=bool"), GRAPH, 2)
    assert found["schedule"] is None and found["schedule_problem"].endswith("cannot be read: a product of 'bool'")


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(TEXT), st.sampled_from([b"", b" ", b'"', b"{", b"}", b"=", b"\n", b"0", b"7", b"a", b"_", b"\xff"])
)
def test_one_changed_byte_changes_nothing_or_leaves_no_schedule(place: int, byte: bytes) -> None:
    _same_or_none(PLAN[:place] + byte + PLAN[place + 1 :])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(PLAN)), st.integers(1, 3000))
@example(4771, 40)
def test_a_missing_part_leaves_no_schedule_or_the_same_figures(start: int, length: int) -> None:
    """A launch may lose the names of its nodes with the text that holds them, and with them its block."""
    found = schedule_facts(PLAN[:start] + PLAN[start + length :], GRAPH, 2)["schedule"]
    assert found is None or [_figures(each) for each in (found, *found["launches"])] == [
        _figures(each) for each in (FACTS["schedule"], *FACTS["schedule"]["launches"])
    ]


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.integers(0, len(PLAN)))
def test_foreign_bytes_leave_no_schedule_or_the_same(more: bytes, place: int) -> None:
    _same_or_none(PLAN[:place] + more + PLAN[place:])


@pytest.mark.parametrize("plan", [b"", b"\0" * 5000, b"header {\n  version = 5\n", b"ptrt\x00\x01" * 100])
def test_what_is_no_plan_has_no_schedule(plan: bytes) -> None:
    found = schedule_facts(plan, GRAPH, 2)
    assert found["schedule"] is None
    assert found["schedule_problem"].startswith("the schedule of this plan cannot be read: ")


def _figures(told: dict[str, Any]) -> dict[str, Any]:
    """What is counted of a schedule, or of a launch."""
    return {key: told[key] for key in ("batch", "moved_bytes", "kinds", "kind", "read", "written") if key in told}


def _same_or_none(plan: bytes) -> None:
    found = schedule_facts(plan, GRAPH, 2)
    assert found == FACTS or (found["schedule"] is None and found["schedule_problem"])
