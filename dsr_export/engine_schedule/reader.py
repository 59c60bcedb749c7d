"""A TensorRT-RTX plan -> its `EngineSchedule`."""

from __future__ import annotations

import mmap
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dsr_export.engine_schedule.blocks import block_of_most, blocks_of
from dsr_export.engine_schedule.launches import Call, calls
from dsr_export.engine_schedule.plan_text import ENGINE, FALLBACK, Plan, Program, UnreadableSchedule, programs
from dsr_export.engine_schedule.record import EngineSchedule, Passed
from dsr_export.engine_schedule.sizes import run_time_sizes


def read_schedule(plan: Plan, batch: int) -> EngineSchedule:
    """What the engine launches at that batch, which must be one that it serves.

    Raises:
        UnreadableSchedule: the plan's text is not of the form that is known here, or contradicts itself.
    """
    found = list(programs(plan))
    engines = [each for each in found if each.version == ENGINE]
    fallbacks = [each for each in found if each.version == FALLBACK]
    if len(engines) != 1 or len(engines) + len(fallbacks) != len(found):
        versions = ", ".join(str(each.version) for each in found) or "none"
        raise UnreadableSchedule(f"one program of version {ENGINE} is expected, and there are {versions}")
    made = calls(engines[0], fallbacks, run_time_sizes(engines[0], batch))
    _check_flow(engines[0], made)
    blocks = blocks_of(node for each in made for node in each.launch.nodes)
    launches = (replace(each.launch, block=block_of_most(each.launch.nodes, blocks)) for each in made)
    return EngineSchedule(batch=batch, launches=tuple(launches), passed=tuple(passed_between(made)))


def read_schedule_file(path: Path, batch: int) -> EngineSchedule:
    """The same of a file, of which only the text comes into memory. Raises UnreadableSchedule, and OSError."""
    if not path.is_file():  # before it is opened: a pipe would wait for somebody who writes
        raise UnreadableSchedule("it is no regular file" if path.exists() else "there is no such file")
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise UnreadableSchedule("the plan is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
            return read_schedule(plan, batch)


def _check_flow(program: Program, made: Sequence[Call]) -> None:
    """Every launch reads what is there by then, and the outputs are made: so that none is missing."""
    there = set(program.header_names("inputs"))
    for each in made:
        for tensor in each.reads:
            if tensor.root not in there and not tensor.constant:
                raise UnreadableSchedule(f"nothing makes {tensor.root!r}, which {each.launch.kernel} reads")
        there.update(tensor.root for tensor in each.writes)
    missing = [name for name in program.header_names("outputs") if name not in there]
    if missing or not made:
        raise UnreadableSchedule(f"nothing makes the output {missing[0]!r}" if missing else "there are no launches")


def passed_between(made: Sequence[Call]) -> list[Passed]:
    """The FP32 tensors between launches; a single value is a factor, and no traffic."""
    passed, reading = [], defaultdict[str, list[int]](list)
    for j, call in enumerate(made):
        for root in dict.fromkeys(each.root for each in call.reads):
            reading[root].append(j)
    for i, maker in enumerate(made):
        for tensor in maker.writes:
            readers = [j for j in reading[tensor.root] if j > i] if tensor.type == "float32" else []
            if tensor.type == "float32" and tensor.count > 1 and readers:
                passed.append(Passed(type=tensor.type, bytes=tensor.bytes, made_by=i, read_by=tuple(readers)))
    return passed
