"""What the formats of a quantised build cost beside FP16, as a report tells it: its columns, and in a line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dsr_export.reports.figures import known, number, share
from dsr_export.reports.reading import Entry, as_figure, entries, mapping, number_in, table_in, text_in
from dsr_export.reports.record import Report
from dsr_export.reports.wording import file_size
from graphs.precisions import quantized_precisions, report_key


@dataclass(frozen=True)
class FormatCosts:
    """Of a report's `cost`: each format that a GEMM has, all GEMMs as chosen, and all of them in FP16."""

    batch: float | None
    formats: tuple[tuple[str, Entry], ...]
    chosen: Entry
    floats: Entry

    @classmethod
    def read(cls, quantised: Entry) -> FormatCosts | None:
        """None where a report of an earlier version does not tell."""
        if not quantised.values.get("cost"):
            return None
        cost = mapping(quantised, "cost")
        formats = tuple((text_in(each, "format"), each) for each in entries(cost, "formats"))
        return cls(number_in(cost, "batch"), formats, mapping(cost, "chosen"), mapping(cost, "all_fp16"))

    @property
    def of_fp16(self) -> list[float]:
        """The share of FP16's time that the chosen formats take, by the estimates, for each device that has them."""
        floats = table_in(self.floats, "estimates")
        ours = {name: milliseconds(each) for name, each in table_in(self.chosen, "estimates").items()}
        pairs = ((ours[name], milliseconds(each)) for name, each in floats.items() if name in ours)
        return [part for each, whole in pairs if (part := share(each, whole)) > 0]


def quantised(report: Report) -> tuple[str, Entry] | None:
    """The precision of a quantised build, and what the report tells of its GEMMs; None for floats."""
    told = ((name, report.section(report_key(name))) for name in quantized_precisions())
    return next(((name, found) for name, found in told if found is not None), None)


def format_name(name: str) -> str:
    """`nvfp4-weights` -> `NVFP4 weights`."""
    first, *rest = name.split("-")
    return " ".join([first.upper(), *rest])


def cost_lines(report: Report) -> Iterator[str]:
    """`GEMMs: 30 FP8, 2 INT8; weights 2.1 MB, ...`, in one line; nothing for builds of floats."""
    found = quantised(report)
    costs = None if found is None else FormatCosts.read(found[1])
    if costs is None:
        return
    counts = ", ".join(f"{number(number_in(each, 'gemms'), 'd')} {format_name(name)}" for name, each in costs.formats)
    yield (
        f"GEMMs: {counts}; {_sizes(costs.chosen)} at batch {number(costs.batch, 'd')}, "
        f"all in FP16 {_sizes(costs.floats)}{_estimate(costs)}"
    )


def _sizes(entry: Entry) -> str:
    weights, activations = (file_size(number_in(entry, f"{key}_bytes")) for key in ("weight", "activation"))
    return f"weights {weights} and activations {activations}"


def _estimate(costs: FormatCosts) -> str:
    shares = known(costs.of_fp16)
    if not shares:
        return ""
    least, most = f"{min(shares):.2f}", f"{max(shares):.2f}"
    spread = least if least == most else f"{least} to {most}"
    return (
        f"; these GEMMs alone are estimated at {spread} of FP16's time on {len(shares)} device{'s' * (len(shares) > 1)}"
    )


def milliseconds(estimate: object) -> float | None:
    """Of a device's estimate, as a CUDA graph; None where there is none."""
    return as_figure(estimate.get("graph_ms")) if isinstance(estimate, Mapping) else None
