"""`report.html`: the report as one page that stands alone. What a report does not hold is left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath

from dsr_export.html.page import Section, page
from dsr_export.reports.figures import is_known, known
from dsr_export.reports.reading import number_in
from dsr_export.reports.record import Report
from dsr_export.reports.sections.cost import cost_section
from dsr_export.reports.sections.engine import engine_section, step_engine_section
from dsr_export.reports.sections.error import error_section
from dsr_export.reports.sections.graph import graph_section
from dsr_export.reports.sections.norm import norm_section
from dsr_export.reports.sections.parity import parity_section
from dsr_export.reports.sections.quantised import quantised_section
from dsr_export.reports.sections.sample import sample_section
from dsr_export.reports.verdict import verdict
from dsr_export.reports.witness import as_read
from dsr_export.reports.wording import decibels, duration, file_size, model_name

SECTIONS: tuple[Callable[[Report], Section | None], ...] = (
    parity_section,
    error_section,  # where it comes from, before what it does to pictures
    sample_section,
    norm_section,
    quantised_section,
    graph_section,
    engine_section,
    step_engine_section,
    cost_section,
)


def report_page(report: Report) -> str:
    """The whole document."""
    report = as_read(report)
    sections = [section for make in SECTIONS if (section := make(report)) is not None]
    kind = "Verification" if report.from_build else "Build report"
    return page(f"{kind} of {model_name(report)}", verdict(report), _facts(report), sections, _foot(report))


def _facts(report: Report) -> list[tuple[str, str]]:
    finite, model = known(row.snr_db for row in report.parity), report.section("model")
    parameters = None if model is None else number_in(model, "parameters")
    facts = [("precision", report.precision.upper()), ("target", ", ".join(report.targets))]
    facts += [("parameters", f"{parameters / 1e6:.3g} M")] if is_known(parameters) else []
    facts += [("lowest SNR", f"{decibels(min(finite))} dB")] if finite else []
    size = sum(known(size for name, size in report.files.items() if name.startswith("model.onnx")))
    facts += [("graph and weights", file_size(size))] if size else []
    facts.append(("time taken", duration(sum(known(stage.seconds for stage in report.stages)))))
    return facts


def _foot(report: Report) -> str:
    tools = ", ".join(f"{name} {version}" for name, version in sorted(report.tools.items()) if name != "dsr-export")
    said = (
        "Rewrites, types, ranges, engines and token norms are as the build reported them. " if report.from_build else ""
    )
    return f"{PurePath(report.bundle).name}. {said}{tools}. Made by"
