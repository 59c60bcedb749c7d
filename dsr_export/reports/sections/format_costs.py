"""What the chosen formats cost beside FP16: a small table, a column for each format."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dsr_export.html.markup import Markup
from dsr_export.html.page import figure, table
from dsr_export.reports.figures import number
from dsr_export.reports.format_costs import FormatCosts, format_name, milliseconds
from dsr_export.reports.reading import Entry, number_in, table_in
from dsr_export.reports.wording import file_size

_CAPTION = (
    "The GEMMs that formats are chosen for, and the kernels that an engine has for them alone: nothing else of the "
    "model is in these figures. Times are estimates, not measurements: each kernel takes its bytes over the device's "
    "bandwidth or its operations over the peak of their type, whichever is longer, and 0.7 microseconds to launch in a "
    "CUDA graph."
)


def format_costs(quantised: Entry) -> list[Markup]:
    """Nothing of a report that does not tell. A format that is the only one needs no column beside the sum."""
    costs = FormatCosts.read(quantised)
    if costs is None:
        return []
    apart = costs.formats if len(costs.formats) > 1 else ()
    columns = [*((format_name(name), each) for name, each in apart), ("as chosen", costs.chosen)]
    columns.append(("all in FP16", costs.floats))
    rows = [
        _row("GEMMs", columns, lambda each: number(number_in(each, "gemms"), "d")),
        _row("launches", columns, lambda each: number(number_in(each, "launches"), "d")),
        _row("weights and their scales", columns, lambda each: file_size(number_in(each, "weight_bytes"))),
        _row("activations read and written", columns, lambda each: file_size(number_in(each, "activation_bytes"))),
        *(_row(f"estimated on {name}, ms", columns, _time_on(name)) for name in table_in(costs.floats, "estimates")),
    ]
    title = f"Bytes and estimated times at batch {number(costs.batch, 'd')}"
    return [figure(table(["", *(name for name, _ in columns)], rows), title=title, caption=_CAPTION)]


def _row(name: str, columns: Sequence[tuple[str, Entry]], cell: Callable[[Entry], str]) -> list[str]:
    return [name, *(cell(each) for _, each in columns)]


def _time_on(device: str) -> Callable[[Entry], str]:
    """The estimate, or what the device lacks for it (`no FP8`)."""

    def cell(cost: Entry) -> str:
        reason = table_in(cost, "not_estimated").get(device)
        if reason is not None:
            return str(reason).removeprefix(f"{device} has ")
        return number(milliseconds(table_in(cost, "estimates").get(device)), ".3g")

    return cell
