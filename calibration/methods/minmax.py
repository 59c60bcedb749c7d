"""The largest magnitude seen: nothing is clipped, and one value may cost all others their resolution."""

from __future__ import annotations

from calibration.methods.magnitudes import Magnitudes


def range_of(seen: Magnitudes) -> float:
    """The largest magnitude."""
    return seen.largest
