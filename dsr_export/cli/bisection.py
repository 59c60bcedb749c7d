"""How a site-by-site comparison is shown: the first fault with its statistics by token role, or the whole curve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


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
        yield f"    {point['snr_db']:6.1f} dB  {point['site']}"


def _against(found: Mapping[str, Any]) -> str:
    return f"SNR {found['snr_db']:.1f} dB, at least {found['tolerance_db']:.1f} dB expected"


def _figures(figures: Mapping[str, Any]) -> str:
    if figures.get("problem"):
        return f"{figures['tokens']} tokens: {figures['problem']}"
    return f"{figures['tokens']} tokens: SNR {figures['snr_db']:.1f} dB, max {figures['max_abs']:.2e}"
