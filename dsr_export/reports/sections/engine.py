"""What each engine does: what runs in each block, where the bytes go, and how long that would take, estimated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from dsr_export.engine_schedule.operand_types import chosen_types, computes_so, format_words
from dsr_export.html.cells import bar_cell, name_cell, rich_table, words
from dsr_export.html.markup import Markup, element, joined, text
from dsr_export.html.page import Section, figure, row, table
from dsr_export.html.stacks import stack_cell, stack_legend
from dsr_export.reports.engines import model_engines, step_engines
from dsr_export.reports.figures import DASH, is_known, known, number, share
from dsr_export.reports.record import Report
from dsr_export.reports.schedules import schedule_words
from dsr_export.reports.wording import file_size

Json = Mapping[str, Any]
PARTS = (
    ("matrix products", ("gemm", "convolution")),
    ("attention", ("attention",)),
    ("norms and elementwise", ("reduction", "pointwise")),
    ("moves and sorts", ("copy", "topk")),
)
"""Kinds of launches as they are drawn."""
KINDS = {
    "attention": "attention, in one kernel",
    "gemm": "matrix products",
    "convolution": "convolutions",
    "topk": "sorts",
    "reduction": "norms and sums",
    "pointwise": "elementwise",
    "copy": "moves and casts",
}


def engine_section(report: Report) -> Section | None:
    """None where no engine tells what it launches."""
    advice = [f"Advice: {each}." for each in report.sections.get("advice") or ()]
    return _section("What the engine does", model_engines(report), advice)


def step_engine_section(report: Report) -> Section | None:
    """The same of engines that hold a whole step of the sampler."""
    batch = "A batch is the images of a call: under guidance the model in it sees two rows of each."
    return _section("What the engine of a whole step does", step_engines(report), [batch])


def _section(title: str, engines: Mapping[str, Json], more: Sequence[str]) -> Section | None:
    told = {name: facts["schedule"] for name, facts in engines.items() if facts.get("schedule")}
    untold = [f"{name}: {facts['schedule_problem']}." for name, facts in engines.items() if _problem(facts)]
    if not told:
        return None
    said = [f"The engine {name}: {schedule_words(schedule)}.{_by_graph(schedule)}" for name, schedule in told.items()]
    explanation = " ".join(
        [*said, "Read from the plan, or from what TensorRT tells of it; nothing was run.", *untold, *more]
    )
    return Section(title, explanation, joined(_drawn(name, each) for name, each in told.items()))


def _by_graph(schedule: Json) -> str:
    """Of an engine that lists no constants."""
    count = schedule.get("unlisted_weights")
    return f" It does not list its weights: those of {number(count, 'd')} products are the graph's." if count else ""


def _problem(facts: Json) -> bool:
    return not facts.get("schedule") and bool(facts.get("schedule_problem"))


def _drawn(name: str, schedule: Json) -> Markup:
    parts = [row(*_blocks(name, schedule), wide=True), row(_kinds(schedule), *_products(schedule))]
    parts += [*_estimates(schedule), *_launches(schedule)]
    return joined(parts)


def _blocks(name: str, schedule: Json) -> list[Markup]:
    """The bytes of each block, by what moves them."""
    blocks = schedule["blocks"]
    if not blocks:
        return []
    most = max(known(each["moved_bytes"] for each in blocks), default=0.0)
    rows = [
        [
            name_cell(str(each["block"] or "of several blocks, or of none")),
            stack_cell(_sizes(each["kinds"]), share(each["moved_bytes"], most)),
            *words(file_size(each["moved_bytes"]), number(each["launches"], "d")),
        ]
        for each in blocks
    ]
    content = joined([stack_legend([part for part, _ in PARTS]), rich_table(("block", "", "bytes", "launches"), rows)])
    caption = "What the kernels of a block read and write; each tensor counts whole, once for each kernel."
    return [figure(content, title=f"{name}, block by block", caption=caption)]


def _sizes(kinds: Mapping[str, float | None]) -> list[tuple[float, str]]:
    sizes = [(part, sum(known(kinds.get(kind) for kind in of))) for part, of in PARTS]
    return [(size, f"{part}: {file_size(size)}") for part, size in sizes]


def _kinds(schedule: Json) -> Markup:
    kinds = schedule["kinds"]
    most = max(known(each["moved_bytes"] for each in kinds.values()), default=0.0)
    rows = [
        [
            text(KINDS.get(kind, kind)),
            text(number(each["launches"], "d")),
            bar_cell(share(each["moved_bytes"], most), file_size(each["moved_bytes"])),
        ]
        for kind, each in kinds.items()
    ]
    return figure(rich_table(("kernels", "launches", "bytes"), rows), title="Where the bytes go")


def _products(schedule: Json) -> list[Markup]:
    """What the GEMMs with weights compute in, and which of them were to compute in codes and do not."""
    gemms = schedule["gemms"]
    if not gemms:
        return []
    types = Counter(str(each["computes"] or "not told") for each in gemms)
    rows = [[text(kind), bar_cell(count / len(gemms), str(count))] for kind, count in types.most_common()]
    return [figure(rich_table(("computes in", "GEMMs"), rows), title="GEMMs with weights", caption=_missed(gemms))]


def _missed(gemms: Sequence[Json]) -> str | None:
    """Those that compute in another type than the graph asks for, by that."""
    missed: dict[str, list[str]] = {}
    for each in gemms:
        if (chosen := chosen_types(each)) is not None and not computes_so(each, chosen):
            missed.setdefault(format_words(chosen), []).append(str(each["node"]))
    told = [f"Chosen for {kind}, and of another type here: {_first(names)}." for kind, names in missed.items()]
    return " ".join(told) or None


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _estimates(schedule: Json) -> list[Markup]:
    devices = schedule["estimates"]
    if not devices:
        return []
    most = max(known(each["stream_ms"] for each in devices.values()), default=0.0)
    sites = schedule.get("dsr_sites")
    rows = [
        [
            text(device),
            bar_cell(share(each["stream_ms"], most), number(each["stream_ms"], ".3g", " ms")),
            bar_cell(share(each["graph_ms"], most), number(each["graph_ms"], ".3g", " ms")),
            text(number(each["memory_share"], ".0%")),
            *([text(_site_share(each, sites["estimates"].get(device)))] if sites else []),
        ]
        for device, each in devices.items()
    ]
    header = [
        "device",
        "in a stream",
        "as a CUDA graph",
        "memory is the limit",
        *(["of it DSR sites"] if sites else []),
    ]
    caption = (
        "Estimates, not measurements: each kernel takes its bytes over the device's bandwidth or its operations over "
        "the peak of their type, whichever is longer, and 2 microseconds to launch, or 0.7 in a graph."
    )
    caption += _left_out(schedule) + (_sites(sites) if sites else "")
    return [figure(rich_table(header, rows), title=f"Estimated time at batch {schedule['batch']}", caption=caption)]


def _left_out(schedule: Json) -> str:
    """Devices that the engine does not run on; schedules of older reports do not tell."""
    reasons = (schedule.get("not_estimated") or {}).values()
    return f" Not estimated: {', '.join(map(str, reasons))}." if reasons else ""


def _site_share(whole: Json, sites: Json | None) -> str:
    """Of the time as a graph, what kernels of sites alone take."""
    part = None if sites is None else sites["graph_ms"]
    known_both = is_known(part) and is_known(whole["graph_ms"]) and whole["graph_ms"] > 0
    return number(part / whole["graph_ms"], ".1%") if known_both else DASH


def _sites(sites: Json) -> str:
    return (
        f" Of the CUDA graph's time, detection, replacement and shifts of neurons take that share at "
        f"{number(sites['sites'], 'd')} sites, in {number(sites['launches'], 'd')} kernels of their own; "
        f"{number(sites['shared_launches'], 'd')} more do some of it beside other work, which is not counted. "
        "What registers take is in every kernel: bench MODEL --roofline builds the engine without them too."
    )


def _launches(schedule: Json) -> list[Markup]:
    launches = schedule["launches"]
    if not launches:
        return []
    header = ("kernel", "what", "block", "computes in", "bytes")
    listing = figure(table(header, [_launch(i, each) for i, each in enumerate(launches)]))
    return [element("details", element("summary", text(f"All {len(launches)} launches")), listing)]


def _launch(place: int, launch: Json) -> Sequence[str]:
    sizes = [*launch["read"].values(), *launch["written"].values()]
    whole = sum(sizes) if all(map(is_known, sizes)) else None
    nodes = launch["nodes"]
    named = f"{place + 1}. {nodes[0] if nodes else launch['kernel']}"
    more = f" and {len(nodes) - 1} more" if len(nodes) > 1 else ""
    kind = KINDS.get(launch["kind"], str(launch["kind"]))
    return [named + more, kind, str(launch["block"] or DASH), str(launch["computes"] or DASH), file_size(whole) or DASH]
