"""A plan's text against what was written into it, and against itself with something missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dsr_export.bundle.inspection import inspect_plan
from dsr_export.engine_schedule import plan_text
from dsr_export.engine_schedule.plan_text import UnreadableSchedule
from dsr_export.engine_schedule.reader import read_schedule, read_schedule_file
from dsr_export.engine_schedule.record import Launch
from dsr_export.errors import ExportError
from tests.engine_schedule.tiny_plan import ENGINE, FALLBACK, NODES, PLAN, ROWS, shape, tensor

X, H, QKV, Y = 2 * 64 * 32 * 4, 2 * 64 * 32 * 2, 2 * 64 * 96 * 2, 2 * 64 * 32 * 4  # bytes at batch 2
SQUARES = "".join(
    ['  memset={ name="c" output={"s0" }  src="10i64" stream=0 }\n']
    + [shape("mul", f"s{i + 1}", f"s{i}", f"s{i}") for i in range(60)]
)
MAIN = ENGINE.split("main {")[1].split("\n}")[0].split("\n")[2:]


def _with(old: str, new: str, count: int = 1) -> bytes:
    assert old.encode() in PLAN
    return PLAN.replace(old.encode(), new.encode(), count)


def test_every_launch_is_read_in_order_with_its_nodes_types_and_bytes() -> None:
    cast, fused, attention, norm, quantize, integer, sort = read_schedule(PLAN, 2).launches
    assert cast == Launch(
        kind="copy",
        kernel="__myl_Cast",
        nodes=NODES[:1],
        block="root",
        read={"float32": X},
        written={"float16": H},
    )
    assert (fused.kind, fused.nodes, fused.computes) == ("gemm", NODES[1:3], "float16")
    assert fused.read == {"float16": H + 6144 + 192} and fused.written == {"float16": QKV}
    assert fused.operations == 2 * (2 * 64) * 32 * 96
    assert (attention.kind, attention.nodes, attention.computes) == ("attention", NODES[5:2:-1], "float16")
    assert attention.read == {"float16": 3 * H}
    assert attention.operations == 2 * 2 * (2 * 64 * 64 * 32)
    assert (norm.kind, quantize.kind, sort.kind) == ("reduction", "pointwise", "topk")
    assert quantize.types == ("float16", "float32", "int8")
    assert (integer.kind, integer.computes, integer.block) == ("gemm", "int8", "blocks.0")
    assert integer.read == {"int8": 2 * 64 * 32 + 1024}  # a factor on the host is no traffic
    assert sort.moved == Y + 2 * (2 * 64 * 4 * 4)


@pytest.mark.parametrize(("name", "full"), [("MulRounEtc", "RounMulCastEtc"), ("MulRounCast", "CastMulRoun")])
def test_a_kernel_shared_by_two_fusions_is_named_in_either_order(name: str, full: str) -> None:
    shared = _with("name=__myl_MulRounCast fqn=__myl_MulRounCast", f"name=__myl_{name} fqn=__myl_{full}")
    assert read_schedule(shared, 2).launches[4].kind == "pointwise"


def _fallback_strides(strides: str) -> bytes:
    told = tensor("h", f"{ROWS} 32", "32 1", "half", 'region=""')
    return _with(told, told.replace("strides={ 32 1 }", f"strides={{ {strides} }}"))


def test_a_fused_kernel_may_be_given_a_slice() -> None:
    assert read_schedule(_fallback_strides("96 1"), 2) == read_schedule(PLAN, 2)
    with pytest.raises(UnreadableSchedule, match="do not fit together"):
        read_schedule(_fallback_strides("16 1"), 2)


def test_sizes_that_are_reshaped_on_the_host_are_no_launch() -> None:
    line = '  signal={ name="two_streams"'
    on_host = '  reshape={ name="r" output={"rows_proxy.1" } input={"n_proxy.1" } stream=0  layers="" }\n'
    assert read_schedule(_with(line, on_host + line), 2) == read_schedule(PLAN, 2)


def test_sizes_are_those_at_the_batch_asked_for() -> None:
    one, two = read_schedule(PLAN, 1), read_schedule(PLAN, 2)
    fixed = 6144 + 192 + 1024
    assert (one.batch, two.batch) == (1, 2)
    assert two.moved - fixed == 2 * (one.moved - fixed)


def test_kinds_and_blocks_add_up_to_the_whole() -> None:
    schedule = read_schedule(PLAN, 2)
    kinds, blocks = schedule.by_kind(), schedule.by_block()
    assert {name: of["launches"] for name, of in kinds.items()} == {
        "attention": 1,
        "gemm": 2,
        "topk": 1,
        "reduction": 1,
        "pointwise": 1,
        "copy": 1,
    }
    assert [(each["block"], each["launches"]) for each in blocks] == [("root", 2), ("blocks.0", 5)]
    for sums in (kinds.values(), blocks):
        assert sum(each["moved_bytes"] for each in sums) == schedule.moved
    assert all(sum(each["kinds"].values()) == each["moved_bytes"] for each in blocks)


def test_fp32_between_launches_is_found_and_outputs_are_none() -> None:
    wide, result = read_schedule(PLAN, 2).passed
    assert (wide.made_by, wide.read_by, wide.bytes) == (3, (4,), 2 * 64 * 4)
    assert (result.made_by, result.read_by, result.bytes) == (5, (6,), Y)


def test_a_file_is_read_like_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "some.plan"
    path.write_bytes(PLAN)
    assert read_schedule_file(path, 2) == read_schedule(memoryview(PLAN), 2) == read_schedule(PLAN, 2)
    path.write_bytes(b"")
    with pytest.raises(UnreadableSchedule, match="empty"):
        read_schedule_file(path, 2)


def test_a_pipe_is_no_plan_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "some.plan")
    with pytest.raises(UnreadableSchedule, match="no regular file"):
        read_schedule_file(tmp_path / "some.plan", 1)


@pytest.mark.parametrize("before", [-70, -20, -3, 0, 5])
def test_programs_are_found_wherever_they_lie_in_a_large_plan(before: int, tmp_path: Path) -> None:
    """Also over the edge of what is looked through at a time, and once only."""
    path = tmp_path / "large.plan"
    start = PLAN.index(ENGINE.encode())
    with path.open("wb") as file:
        file.seek(plan_text._WINDOW + before - start)
        file.write(PLAN)
    assert read_schedule_file(path, 2) == read_schedule(PLAN, 2)


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (b"", "there are none"),
        (PLAN.replace(b"version = 5", b"version = 6"), "version 5 is expected"),
        (PLAN + ENGINE.encode(), "there are 5, 4, 5"),
        (PLAN.replace(FALLBACK.encode(), b""), "no program for the fused kernel 0"),
        (PLAN + FALLBACK.encode(), "2 programs of fused kernels, and 1"),
        (PLAN[:2000], "has no end"),
        (_with('"qkv" }', '"product_of_all" }'), "is not described"),
        (_with('name="h"', 'name="hh"'), "'h' is not described"),
        (_with("type=int8", "type=int5"), "unknown type 'int5'"),
        (_with('name="w8"', 'name="q8"'), "described twice"),
        (_with('"c64" } ', '"c65" } '), "'rows_proxy.1\"|the size"),
        (_with("64i64", "63i64"), "another one's fallback"),
        (_with("function={ name=__myl_Cast ", "topk={ name=__myl_Cast "), "unknown kind 'topk'"),
        (_with("fqn=__myl_Topk", "fqn=__myl_Topl"), "full name"),
        (_with("name=__myl_Topk fqn=__myl_Topk", "name=__myl_TopkEtc fqn=__myl_Topk"), "full name"),
        (_with("signal={", 'reshape={ output={"h" } input={"n_proxy.1" } layers="" '), "unknown kind 'reshape'"),
        (_with(" label bb1: \n", " label bb1: \n label bb7: \n"), "no straight list"),
        (_with('input={"h" "w" }', 'input={"w" "h" }'), "makes"),
        (_with(NODES[1] + ']" }', NODES[3] + ']" }'), "another one's fallback"),
        (_with("size=6144", "size=6143"), "has 6144 bytes"),
        (_with("dims={ 32 96 }", "dims={ 32 " + "9" * 5000 + " }"), "a dims that can be read"),
        (_with("dims={ 32 96 }", "dims={ " + "1 " * 65 + "32 96 }"), "more axes"),
        (_with("dims={ 32 96 }", "dims={ 999999999999999999 999999999999999999 }"), "more axes or elements"),
        (_with("binary=0", "binary=" + "9" * 5000), "binary is '9999"),
        (_with('src="64i64"', f'src="{"9" * 5000}i64"'), "the size"),
        (_with("}\nshape_main {\n label bb2: \n", "}\nshape_main {\n label bb2: \n" + SQUARES), "larger than any size"),
        (_with("version = 5", "version = " + "5" * 5000), "there are none|there are 4"),
        (PLAN.replace(b"n_streams = 1\n", b"n_streams = 1\nheader {\n  version = 5\n", 1), "begins within another"),
        (_with("  n_streams = 1\n", "  n_streams = 1\n  x\n" + "  x\n" * (1 << 19)), "more or longer lines"),
        (_with("  n_streams = 1\n", "  n" + "s" * (1 << 17) + "\n"), "more or longer lines"),
        (_with('"v^deref" "n_proxy.1" }', '"v^deref" ' + '"q^deref" ' * 1000 + "}"), "an attention makes"),
        (PLAN.replace(b"\n  function={ name=__myl_CastMean", b"\n  memcpy={ name=__myl_CastMean"), "unknown kind"),
    ],
)
def test_what_is_not_understood_is_said_and_never_guessed(plan: bytes, reason: str) -> None:
    with pytest.raises(UnreadableSchedule, match=reason):
        read_schedule(plan, 2)


@pytest.mark.parametrize("line", [each for each in MAIN if 'layers="[ONNX' in each])
def test_a_launch_that_is_missing_is_noticed(line: str) -> None:
    with pytest.raises(UnreadableSchedule):
        read_schedule(PLAN.replace(line.encode() + b"\n", b"", 1), 2)


def test_a_large_file_that_is_no_plan_is_refused_by_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "sparse.plan"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ExportError, match="it does not begin as such a plan does"):
        inspect_plan(path)
