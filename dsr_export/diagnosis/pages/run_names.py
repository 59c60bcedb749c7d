"""What the walks of a diagnosis are called on its page, and how they are drawn."""

from __future__ import annotations

from dsr_export.diagnosis.denoiser import Run
from dsr_export.html.axes import spans

STYLES = {"off": "a", "own": "b", "proposed": "c"}
SHORT = {"off": "none", "own": "own", "proposed": "proposed"}


def run_name(run: Run) -> str:
    """What a walk is called in legends."""
    if run.name == "off":
        return "without replacement"
    what = "the model's own sites" if run.name == "own" else "the proposed sites"
    return f"with {what} ({spans(list(run.sites)) or 'none'})"
