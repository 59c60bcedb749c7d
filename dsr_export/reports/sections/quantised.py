"""What was quantised, at what cost: SNR by GEMM, ranges by kind of token, clipping, and the sensitivity ranking."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from dsr_export.html.axes import percent
from dsr_export.html.cells import bar_cell, name_cell, rich_table
from dsr_export.html.charts import Series, bars, legend
from dsr_export.html.curves import curves
from dsr_export.html.markup import Markup, element, joined, text
from dsr_export.html.page import Section, figure, row
from dsr_export.reports.figures import DASH, as_float, is_known, known, number, share
from dsr_export.reports.format_costs import format_name, quantised
from dsr_export.reports.reading import Entry, entries, mapping, number_in, text_in, words
from dsr_export.reports.record import Report
from dsr_export.reports.sections.format_costs import format_costs
from dsr_export.reports.witness import EMULATION
from dsr_export.reports.wording import decibels
from graphs.precisions import quantized_precisions, report_key
from graphs.quantize.schemes import SCHEMES

ROLES = (
    ("patch tokens", "b", ("patch",)),
    ("register tokens", "c", ("register",)),
    ("outlier tokens", "a", ("outlier",)),
    ("corners, first frames, padding", "d", ("corner", "first frame", "padding")),
)
LISTED = 12
_WITNESS = {
    EMULATION: " Numbers are checked by emulation, with codes written out in standard operators: no CPU has kernels."
}
NAN = float("nan")


def quantised_section(report: Report) -> Section | None:
    """Under the name of the precision; None for floats."""
    told = quantised(report)
    gemms = [] if told is None else entries(told[1], "gemms")
    if told is None or not gemms:
        return None
    name, found = told
    title = format_name(name)
    charts = [_snr(gemms, title), _ranges(gemms), _clipped(gemms)]
    ranges = f"ranges by {words(found, 'method') or DASH}{_data(found)}"
    said = (
        f"{_formats(found, gemms, name)}; {ranges}. {_budget(found, name)}"
        f"{_floats_in_engines(gemms)}{_WITNESS.get(words(found, 'witness') or '', '')}"
    )
    drawn = joined([row(*(each for each in charts if each is not None)), _ranking(gemms, title), *format_costs(found)])
    return Section(title, said, drawn)


def _weights_alone(name: str) -> bool:
    return any(each == name and scheme.weights_alone for each, scheme in SCHEMES.items())


def _formats(found: Entry, gemms: Sequence[Entry], name: str) -> str:
    """How many GEMMs have which, and how much of the FLOPs the one that was asked for."""
    counts = Counter(words(gemm, "precision") for gemm in gemms)
    alone = f"have {format_name(name).removesuffix(' weights')} weights"
    made = alone if _weights_alone(name) else f"compute in {format_name(name)}"
    whole = f"{counts.pop(name, 0)} of {len(gemms)} GEMMs {made}"
    share_of = f"{_percent(number_in(found, f'{report_key(name)}_flops_share'))} of the FLOPs"
    codes = {each: count for each, count in counts.items() if each in quantized_precisions()}
    if not codes:
        return f"{whole}, {share_of}"
    others = [f"{count} in {str(each).upper()}" for each, count in codes.items()]
    floats = sum(counts.values()) - sum(codes.values())
    return ", ".join([f"{whole} ({share_of})", *others, *([f"{floats} stay FP16"] if floats else [])])


def _data(found: Entry) -> str:
    """What they were measured on, where that were a pipeline's own walks."""
    walks = [run for run in entries(found, "data") if words(run, "pipeline") is not None]
    return "".join(
        f", on {number(number_in(run, 'images'), 'g')} images of {words(run, 'pipeline')}"
        f"{_of_prompts(number_in(run, 'prompts'))}, {number(number_in(run, 'steps'), 'g')} steps each"
        for run in walks
    )


def _of_prompts(count: float | None) -> str:
    return "" if count is None else f" from {number(count, 'g')} prompt{'s' * (count != 1)}"


def _floats_in_engines(gemms: Sequence[Entry]) -> str:
    """Those that were chosen, and that engines have in FP16."""
    count = sum(gemm.values.get("engine_floats") is True for gemm in gemms)
    them = f"{count} of them stay{'s' * (count == 1)} FP16"
    return f" In engines {them}: codes of what attention makes would cost a kernel each." if count else ""


def _budget(found: Entry, name: str) -> str:
    """What makes some GEMMs others than was asked for: the rungs of the ladder, whether or not any took them. Builds
    aim higher than every check holds them to."""
    aimed = number_in(found, "aimed_snr_db")
    wanted = number(aimed if is_known(aimed) else number_in(found, "budget_snr_db"), "g")
    rungs = [format_name(form.name) for each, scheme in SCHEMES.items() if each == name for form in scheme.tokens[1:]]
    rung = f"take {' or '.join(rungs)}, or " if rungs else ""
    return f"The most sensitive for each byte {rung}stay in FP16 until the output keeps {wanted} dB."


def _snr(gemms: Sequence[Entry], title: str) -> Markup | None:
    """Each GEMM's own output, by plain ranges and by those chosen."""
    series = [
        Series(name, style, range(len(gemms)), [as_float(_snr_db(gemm, key)) for gemm in gemms])
        for name, style, key in (("minimum and maximum", "a", "minmax"), ("chosen", "b", "chosen"))
    ]
    chart = curves(series, [text_in(gemm, "name") for gemm in gemms], x_label="GEMM", y_label="SNR, dB")
    return figure(joined([legend(series), chart]), title=f"SNR of each GEMM in {title}")


def _ranges(gemms: Sequence[Entry]) -> Markup | None:
    """Largest magnitudes of the GEMMs' inputs."""
    found = [(name, style, [_largest(gemm, roles) for gemm in gemms]) for name, style, roles in ROLES]
    series = [
        Series(name, style, range(len(gemms)), values)
        for name, style, values in found
        if any(math.isfinite(value) for value in values)
    ]
    if not series:
        return None
    chart = curves(series, [text_in(gemm, "name") for gemm in gemms], x_label="GEMM", y_label="largest |x|", kind="log")
    return figure(joined([legend(series), chart]), title="Input ranges by kind of token")


def _largest(gemm: Entry, roles: Sequence[str]) -> float:
    return max((value for role in roles if math.isfinite(value := _amax(gemm, role))), default=NAN)


def _amax(gemm: Entry, role: str) -> float:
    roles = mapping(gemm, "roles") if gemm.values.get("roles") else Entry(gemm.at, {})
    stats = mapping(roles, role) if roles.values.get(role) else Entry(gemm.at, {})
    return NAN if not stats.values.get("count", 1) else as_float(number_in(stats, "amax"))


def _snr_db(gemm: Entry, ranges: str) -> float | None:
    """Of the GEMM's own output, by the ranges named."""
    return number_in(mapping(gemm, "snr_db"), ranges) if gemm.values.get("snr_db") else None


def _clipped(gemms: Sequence[Entry]) -> Markup | None:
    values = [100 * as_float(number_in(gemm, "clipped")) for gemm in gemms]
    if not any(value > 0 for value in values):
        return None
    names = [text_in(gemm, "name") for gemm in gemms]
    return figure(bars(values, names, y_label="clipped values, %", x_label="GEMM"), title="Values beyond the range")


def _ranking(gemms: Sequence[Entry], title: str) -> Markup:
    """The most sensitive first: with it alone in the precision, the output has the lowest SNR."""
    ranked = sorted(gemms, key=_sensitivity)
    shown = _table(ranked[:LISTED], gemms)
    caption = (
        f"Sensitivity is the output's SNR with this GEMM alone in {title}: the shorter the bar, the more it costs."
    )
    top = figure(shown, title="Sensitivity, worst first", caption=caption)
    if len(ranked) <= LISTED:
        return top
    all_of_them = figure(_table(ranked, gemms))
    return joined([top, element("details", element("summary", text(f"All {len(ranked)} GEMMs")), all_of_them)])


def _sensitivity(gemm: Entry) -> float:
    """What was not measured comes last."""
    found = number_in(gemm, "sensitivity_db")
    return found if is_known(found) else math.inf


def _percent(part: float | None) -> str:
    return percent(part) if is_known(part) else DASH


def _table(ranked: Sequence[Entry], gemms: Sequence[Entry]) -> Markup:
    best, largest = (
        max(known(number_in(gemm, key) for gemm in gemms), default=0.0) for key in ("sensitivity_db", "flops_share")
    )
    header = (
        "GEMM",
        "precision",
        "sensitivity, dB",
        "FLOPs",
        "row scales",
        "SNR by min/max",
        "SNR as chosen",
        "clipped",
    )
    return rich_table(header, [_row(gemm, best, largest) for gemm in ranked])


def _row(gemm: Entry, best: float, largest: float) -> list[Markup]:
    sensitivity, flops = number_in(gemm, "sensitivity_db"), number_in(gemm, "flops_share")
    return [
        name_cell(text_in(gemm, "name")),
        text((words(gemm, "precision") or DASH).upper()),
        bar_cell(share(sensitivity, best), decibels(sensitivity)),
        bar_cell(share(flops, largest), _percent(flops)),
        text(words(gemm, "rows") or "none"),
        text(decibels(_snr_db(gemm, "minmax"))),
        text(decibels(_snr_db(gemm, "chosen"))),
        text(_percent(number_in(gemm, "clipped"))),
    ]
