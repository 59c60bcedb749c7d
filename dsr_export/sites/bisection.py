"""Where a candidate goes wrong: the first site out of tolerance, and first inside it the first tensor that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dsr_export.parity.tolerances import Tolerance
from dsr_export.sites.errors import SiteError, curve
from dsr_export.sites.token_roles import RegisterRows, role_statistics

DRIFT_DB = 10.0  # kernels of other machines sum in another order; a fault costs far more
STRICT_DB = 20.0  # inside the model a site need not be better than this beyond the outputs' own tolerance
JUMP_DB = 6.0  # twice the error of all that came before: not inherited


@dataclass(frozen=True)
class Bisection:
    """`fault` is the first site at fault, None where there is none; `tolerance_db` what it was held against."""

    errors: Sequence[SiteError]
    registers: RegisterRows
    fault: SiteError | None = None
    tolerance_db: float | None = None

    def as_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = dict.fromkeys(("site", "module", "tensor", "snr_db", "tolerance_db", "problem"))
        found |= {"roles": {}, "roles_at": None, "curve": curve(self.errors)}
        if self.fault is None:
            return found
        shown = self._with_tokens(self.fault)
        return found | {
            **self.fault.as_dict(),
            "tolerance_db": self.tolerance_db,
            "problem": self.fault.problem,
            "roles": role_statistics(shown, self.registers),
            "roles_at": shown.reference.site.tensor,
        }

    def _with_tokens(self, fault: SiteError) -> SiteError:
        """`fault`, or else the next outer site: what is modulation, or lost, has no tokens to count."""
        site = fault.reference.site
        if fault.sample is not None and len(site.shape) > 1 and site.shape[0] > 1:
            return fault
        outer = [each for each in self.errors if each.reference.site.outer]
        own = next((i for i, each in enumerate(outer) if each.reference.site.group == site.group), len(outer))
        return next((each for each in outer[own:] if each.sample is not None), fault)


def bisect(
    errors: Sequence[SiteError], registers: RegisterRows, tolerance: Tolerance, built: Mapping[str, float]
) -> Bisection:
    """The first fault of a candidate that failed. `built` is the SNR per tensor that its build measured, if one did.

    The first bad outer site ends the search; what fails first in the groups up to it, in the graph's order, is at
    fault. Later groups are left out: their modulation stands in front of everything in the graph.
    """
    limits = _limits(errors, tolerance, built)
    bad = {i for i, error in enumerate(errors) if i in limits and error.snr_db < limits[i]}
    outer = [i for i, error in enumerate(errors) if error.reference.site.outer]
    end = _first(errors, outer, bad, inherits=not built)
    groups = {errors[i].reference.site.group for i in outer if end is None or i <= end}
    within = [i for i, error in enumerate(errors) if error.reference.site.group in groups]
    fault = _first(errors, within, bad, inherits=not built)
    if fault is None:
        return Bisection(errors, registers)
    fault = _end_of_lost(errors, fault, bad)
    return Bisection(errors, registers, errors[fault], limits[fault])


def _end_of_lost(errors: Sequence[SiteError], fault: int, bad: set[int]) -> int:
    """Where nobody reads a branch any more, what stands last in it, since that is where it was cut off."""
    group = errors[fault].reference.site.group
    lost = [i for i in bad if errors[i].lost and errors[i].reference.site.group == group]
    return max(lost) if errors[fault].lost else fault


def _limits(errors: Sequence[SiteError], tolerance: Tolerance, built: Mapping[str, float]) -> dict[int, float]:
    """Place -> the least SNR. A build that passed says how good each site is; what it did not see is not judged."""
    if not built:
        return {i: tolerance.snr_db for i, error in enumerate(errors) if not error.lost}
    most = tolerance.snr_db + STRICT_DB
    tensors = {i: error.reference.site.tensor for i, error in enumerate(errors)}
    return {i: min(built[tensor] - DRIFT_DB, most) for i, tensor in tensors.items() if tensor in built}


def _first(errors: Sequence[SiteError], places: Sequence[int], bad: set[int], *, inherits: bool) -> int | None:
    """The first bad one of `places`; with `inherits`, the first that is far worse than all before it, if any is."""
    found = [place for place in places if place in bad]
    worst, jumps = float("inf"), []
    for place in places:
        if place in bad and errors[place].snr_db < worst - JUMP_DB:
            jumps.append(place)
        worst = min(worst, errors[place].snr_db)
    return next(iter(jumps if inherits and jumps else found), None)
