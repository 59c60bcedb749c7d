"""How fast the GPU's clocks run: a time without them cannot be compared with another day's."""

from __future__ import annotations

import subprocess
from typing import Any

_FIELDS = ("clocks.sm", "clocks.max.sm", "clocks.mem", "temperature.gpu", "power.draw")
KEYS = ("sm_mhz", "most_sm_mhz", "memory_mhz", "degrees", "watts")
SECONDS = 10


def clocks(bus: str | None) -> dict[str, float | None]:
    """`KEYS` of the GPU on that PCI bus, asked of `nvidia-smi`; None for what it does not tell, or if it is missing,
    and of a GPU whose place is not known."""
    if bus is None:
        return dict.fromkeys(KEYS)
    command = ["nvidia-smi", "-i", bus, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS)
    except (OSError, subprocess.SubprocessError):
        return dict.fromkeys(KEYS)
    told = (done.stdout.splitlines() or [""])[0].split(",")
    values: list[float | None] = [_number(each) for each in told]
    return dict(zip(KEYS, [*values, *[None] * len(KEYS)], strict=False))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # "[N/A]"
        return None


def clock_words(told: dict[str, Any]) -> str:
    """For people."""
    if told["sm_mhz"] is None:
        return "clocks are not told here"
    most = "" if told["most_sm_mhz"] is None else f" of {told['most_sm_mhz']:.0f}"
    memory = "" if told["memory_mhz"] is None else f", memory {told['memory_mhz']:.0f} MHz"
    return f"SM {told['sm_mhz']:.0f}{most} MHz{memory}"
