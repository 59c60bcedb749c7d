"""What a training comes to, in words."""

from __future__ import annotations

from dataclasses import replace

from dsr_export.fitting.compared import Compared
from dsr_export.html.axes import percent
from dsr_export.html.page import Tone, Verdict

SHARE_BEHIND_SITES = 0.0


def fit_verdict(found: Compared | None, losses: list[float], command: str, untouched: list[str]) -> Verdict:
    """For the page and the summary: outliers before and after, or else the loss alone.

    `untouched` are files that are as they began, which is said before anything else.
    """
    made = _by_outliers(found, losses, command)
    if not untouched:
        return made
    headline = f"No token came to be replaced by {', '.join(untouched)}: not trained."
    return replace(made, tone="warn", headline=headline, details=(*made.details, made.headline))


def _by_outliers(found: Compared | None, losses: list[float], command: str) -> Verdict:
    first, last = (sum(part) / len(part) for part in (losses[:20], losses[-20:]))
    loss = f"The loss went from {first:.4g} to {last:.4g} (means of 20 steps)."
    tone: Tone = "good"
    if found is None:
        return Verdict(tone=tone, headline="The registers are trained.", details=(loss,), command=command, why=_WHY)
    before, after = found.diagnosis.runs
    sites = [layer for layer in after.sites if found.diagnosis.limits[layer] is not None]
    left = float(after.ratios[sites].max()) if sites else 0.0
    if not found.diagnosis.outlier_layers:
        headline = "The model has no outlier tokens; the registers are trained."
    elif left > SHARE_BEHIND_SITES:
        tone, headline = "warn", f"Behind the sites up to {percent(left)} of the tokens are outliers still."
    else:
        headline = "No outlier tokens are left behind the sites." if sites else "The registers are trained."
    share = f"All blocks and times: {percent(float(before.ratios.mean()))} outliers before, "
    return Verdict(
        tone=tone,
        headline=headline,
        details=(loss, f"{share}{percent(float(after.ratios.mean()))} after."),
        command=command,
        why=_WHY,
    )


_WHY = "Build it with the registers:"
