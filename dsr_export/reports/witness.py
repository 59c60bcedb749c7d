"""What numbers were checked with, as people read it: `emulation` where ONNX Runtime has no kernels for the codes.

The rows' `runtime` is what ran, and what one report's rows are matched by with those of another; for a reader it would
hide that standard operators stood in for the codes.
"""

from __future__ import annotations

from dataclasses import replace

from dsr_export.backends.runtime_names import CPU_RUNNER
from dsr_export.reports.format_costs import quantised
from dsr_export.reports.reading import words
from dsr_export.reports.record import Report

EMULATION, KERNELS = "emulation", "kernels"


def witness_of(*formats: str) -> str:
    """How graphs with these formats are run without a GPU; formats of other versions count as those of kernels."""
    from graphs.target_precisions import NEEDS  # which loads onnx, and `--help` does not

    return EMULATION if any(each in NEEDS and not NEEDS[each].on_cpu for each in formats) else KERNELS


def called(runtime: str, witness: str) -> str:
    """`runtime`, or `emulation`."""
    return EMULATION if runtime == CPU_RUNNER and witness == EMULATION else runtime


def runtime_name(report: Report, runtime: str, component: str | None = None) -> str:
    """The same of what a report says."""
    return called(runtime, _witness(report, component))


def as_read(report: Report) -> Report:
    """The report with these names in its rows, pictures and samples."""
    return report.changed(
        parity=tuple(replace(row, runtime=runtime_name(report, row.runtime, row.component)) for row in report.parity),
        images=tuple(replace(each, runtime=runtime_name(report, each.runtime)) for each in report.images),
        samples=tuple(
            {**each, "runtime": runtime_name(report, str(each["runtime"]))} if "runtime" in each else each
            for each in report.samples
        ),
    )


def _witness(report: Report, component: str | None) -> str:
    """As a quantised build tells it; of a component by its precision."""
    if component is not None:
        known = report.components.get(component)
        return witness_of(*([] if known is None else [known.precision]))
    told = quantised(report)
    said = None if told is None else words(told[1], "witness")
    return said or witness_of(report.precision)
