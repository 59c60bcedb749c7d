"""What the build or the verification cost: time by stage, files by size, engines."""

from __future__ import annotations

from collections.abc import Mapping

from dsr_export.html.cells import bar_cell, rich_table
from dsr_export.html.markup import Markup, joined, text
from dsr_export.html.page import Section, figure, row, table
from dsr_export.reports import reading
from dsr_export.reports.engines import model_engines, step_engines
from dsr_export.reports.figures import DASH, is_known, known, number, share
from dsr_export.reports.record import Report
from dsr_export.reports.wording import duration, file_size


def cost_section(report: Report) -> Section | None:
    """Times are wall-clock; a stage from the cache took only its look-up."""
    figures = [each for each in (_stages(report), _files(report.files)) if each is not None]
    engines = _engines(report)
    said = (
        f"{duration(sum(known(stage.seconds for stage in report.stages)))} in all, "
        f"at most {file_size(report.peak_rss_bytes)} of memory."
    )
    body = joined([row(*figures), *([row(*engines, wide=True)] if engines else [])])
    return Section("Times and sizes", said, body)


def _stages(report: Report) -> Markup | None:
    stages = report.stages
    if not stages:
        return None
    longest = max(known(stage.seconds for stage in stages), default=0.0)
    largest = max(known(stage.peak_rss_bytes for stage in stages), default=0.0)
    rows = [
        [
            text(stage.name + (" (cached)" if stage.cached else "")),
            bar_cell(share(stage.seconds, longest), duration(stage.seconds)),
            bar_cell(share(stage.peak_rss_bytes, largest), file_size(stage.peak_rss_bytes)),
        ]
        for stage in stages
    ]
    return figure(rich_table(("stage", "time", "memory at most"), rows), title="Time and memory by stage")


def _files(files: Mapping[str, float | None]) -> Markup | None:
    sizes: dict[str, float] = {}
    for name, size in files.items():  # a component is one line
        parts = name.split("/")
        key = "/".join(parts[:2]) + "/" if parts[0] == "components" else name
        sizes[key] = sizes.get(key, 0) + (size if is_known(size) else 0)
    if not sizes:
        return None
    most = max(sizes.values())
    ranked = sorted(sizes.items(), key=lambda item: -item[1])
    rows = [[text(name), bar_cell(share(size, most), file_size(size))] for name, size in ranked]
    return figure(
        rich_table(("file", "size"), rows), title="Files", caption=f"{file_size(sum(sizes.values()))} in all."
    )


def _engines(report: Report) -> list[Markup]:
    engines = {**model_engines(report), **step_engines(report)}
    if not engines:
        return []
    rows = [_engine(name, reading.Entry(name, facts)) for name, facts in engines.items()]
    header = ("engine", "version", "GPUs", "layers", "plan", "built in")
    return [figure(table(header, rows), title="Engines")]


def _engine(name: str, facts: reading.Entry) -> list[str]:
    return [
        name,
        reading.words(facts, "version") or DASH,
        ", ".join(reading.texts(facts, "compute_capabilities")) or "portable",
        number(reading.number_in(facts, "layers"), "d"),
        file_size(reading.number_in(facts, "plan_bytes")),
        duration(reading.number_in(facts, "seconds")),
    ]
