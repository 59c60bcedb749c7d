"""Advice about engines: what is missed, with names; what a plan does not tell is not held against it."""

from __future__ import annotations

import copy
from typing import Any

from dsr_export.engine_schedule.facts import schedule_facts
from dsr_export.reports.reading import Entry
from dsr_export.reports.record import Check
from dsr_export.verification.engine_checks import engine_checks
from tests.engine_schedule.tiny_plan import ATTENTION, NODES, PLAN, tiny_graph

APART = PLAN.replace(ATTENTION.encode(), NODES[5].encode(), 1)


def _facts(**other: Any) -> dict[str, Any]:
    """Of an engine in which all is well, but for what is given."""
    facts = copy.deepcopy(schedule_facts(PLAN, tiny_graph(), 2))
    facts["schedule"]["fp32_between"] = []
    facts["schedule"] |= other
    return {"rtx": facts}


def test_an_engine_in_which_all_is_well_passes() -> None:
    checks = engine_checks(_facts(), "int8")
    assert [(each.name, each.passed, each.problem) for each in checks] == [
        ("attentions_fused", True, None),
        ("integer_gemms", True, None),
        ("declared_fp32_between_kernels", True, None),
    ]


def test_each_engine_has_its_own_checks() -> None:
    told = {"rtx": schedule_facts(APART, tiny_graph(), 2), "rtx:8.9": _facts()["rtx"]}
    found = [(each.of, each.passed) for each in engine_checks(told, "fp16")]
    assert found[0] == ("attentions_fused (rtx)", False) and found[3] == ("attentions_fused (rtx:8.9)", True)
    assert Check.read(Entry("a check", engine_checks(told, "fp16")[3].as_dict())).target == "rtx:8.9"


def test_an_attention_in_several_kernels_is_named() -> None:
    found = engine_checks({"rtx": schedule_facts(APART, tiny_graph(), 2)}, "fp16")[0]
    assert not found.passed and found.value == 0.0
    assert (
        found.problem == f"engine rtx: 1 of 1 attentions are not one kernel, 1 for no reason that is known: {NODES[4]}"
    )


def test_a_chosen_gemm_in_another_type_is_named() -> None:
    """By reports of earlier versions, too, which do not tell what was chosen."""
    gemms = [{"node": f"b.{i}/MatMul", "computes": kind, "chosen_integer": True} for i, kind in enumerate("abcd")]
    gemms += [{"node": "c/MatMul", "computes": "int8", "chosen_integer": True}]
    gemms += [{"node": "d/MatMul", "computes": "float16", "chosen_integer": False}]
    found = engine_checks(_facts(gemms=gemms), "int8")[1]
    assert not found.passed and found.value == 0.2
    assert "4 of 5 GEMMs chosen for INT8 compute" in str(found.problem)
    assert str(found.problem).endswith("b.0/MatMul in a, b.1/MatMul in b, b.2/MatMul in c, and 1 more")


def _gemm(node: str, computes: str | None, chosen: str | None) -> dict[str, Any]:
    return {"node": node, "computes": computes, "chosen": chosen, "chosen_integer": chosen == "int8"}


def test_what_computes_as_chosen_passes_whatever_the_format() -> None:
    pairs = [("float8e4m3", "float8e4m3"), ("int8", "int8"), ("int4 x float16", "float16 x int4"), ("float16", None)]
    gemms = [_gemm(f"b.{i}", *pair) for i, pair in enumerate(pairs)]
    found = engine_checks(_facts(gemms=gemms), "fp8")[1]
    assert (found.name, found.passed, found.value, found.problem) == ("quantised_gemms", True, 1.0, None)


def test_each_format_that_is_missed_has_its_name() -> None:
    gemms = [_gemm("a", "float16", "float8e4m3"), _gemm("b", "float8e4m3", "float8e4m3"), _gemm("c", None, "int8")]
    gemms += [_gemm("d", "float16", "float16 x int4")]
    found = engine_checks(_facts(gemms=gemms), "fp8")[1]
    assert not found.passed and found.value == 0.25
    assert found.problem == (
        "engine rtx: 1 of 2 GEMMs chosen for FP8 compute in another type: a in float16; "
        "1 of 1 GEMMs chosen for INT8 compute in another type: c in a kernel that does not tell; "
        "1 of 1 GEMMs chosen for INT4 weights compute in another type: d in float16"
    )


def test_fp32_between_kernels_counts_where_the_graph_does_not_compute_in_it() -> None:
    passed = [
        {"type": "float32", "bytes": 2_000_000, "made_by": 5, "read_by": [6], "declared": each} for each in (0, 1)
    ]
    found = engine_checks(_facts(fp32_between=passed), "fp16")[2]
    assert not found.passed and found.value == 0.5
    assert "1 FP32 tensors (2 MB) lie between kernels" in str(found.problem) and NODES[8] in str(found.problem)


def test_fp32_builds_and_plans_that_do_not_tell_have_no_advice() -> None:
    facts = {"rtx": schedule_facts(APART, tiny_graph(), 2)}
    assert engine_checks(facts, "fp32") == []
    assert engine_checks({"rtx": {"schedule": None, "schedule_problem": "the schedule ..."}}, "fp16") == []
    assert engine_checks({"rtx": {}}, "int8") == []
