"""How a site-by-site comparison is shown: the first fault with its statistics by token role, or the whole curve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dsr_export.reports.figures import number


def bisection_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Lines for a terminal."""
    whose = f"{found['component']}/" if "component" in found else ""
    if found["site"] is None:
        yield f"  sites: {whose}{found['problem'] or 'none is at fault'}"
    else:
        yield f"  first site at fault: {whose}{found['site']}, in module {found['module']} ({found['tensor']})"
        yield f"    {found['problem'] or _against(found)}"
        for role, figures in found["roles"].items():
            yield f"    {role:<8} {_figures(figures)}"
    for point in found.get("curve", []):
        yield f"    {number(point['snr_db'], '.1f'):>6} dB  {point['site']}"


def _against(found: Mapping[str, Any]) -> str:
    snr, least = (number(found[key], ".1f", " dB") for key in ("snr_db", "tolerance_db"))
    return f"SNR {snr}, at least {least} expected"


def _figures(figures: Mapping[str, Any]) -> str:
    tokens = number(figures.get("tokens"), "d")
    if figures.get("problem"):
        return f"{tokens} tokens: {figures['problem']}"
    snr, largest = number(figures["snr_db"], ".1f", " dB"), number(figures["max_abs"], ".2e")
    return f"{tokens} tokens: SNR {snr}, max {largest}"
