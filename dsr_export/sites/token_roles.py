"""Errors by token role: registers, outliers, and the other patches. The reference says which token is which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.errors import ExportError
from dsr_export.parity.decibels import IDENTICAL_DB
from dsr_export.parity.metrics import compare
from dsr_export.sites.errors import SiteError
from graphs.observe.sites import Site
from graphs.observe.tap_samples import Layout

Array = npt.NDArray[Any]
OUTLIER = 4.0  # times the median norm of the image's patches


@dataclass(frozen=True)
class RegisterRows:
    """Where registers are: `count` rows, the first or the `last`, of sequences of `tokens` in the groups `groups`.

    Sequences that hold the prompt's tokens as well have their first one elsewhere: `rows`, by the sequence's length.
    """

    count: int
    tokens: int
    last: bool
    groups: frozenset[str]
    rows: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, dsr: Mapping[str, Any], sites: Sequence[Site]) -> RegisterRows:
        """`dsr` is the manifest's: a denoiser's registers come first, an encoder's appended and test-time ones last."""
        outer = [site for site in sites if site.outer and len(site.shape) == 2]
        blocks = [site for site in outer if site.group.rsplit(".", 1)[-1].isdecimal()]
        denoiser, encoder = _part(dsr, "denoiser"), _part(dsr, "encoder")
        if denoiser.get("kind") == "diffusion":
            blocks, count, last = blocks[_count(denoiser, "start") :], _count(denoiser, "registers"), False
        else:
            behind = encoder.get("kind") in ("appended", "test-time")
            count, last = _count(encoder, "registers") if behind else 0, True
        if not blocks or not count:
            return cls(0, 0, last, frozenset())
        tokens, rows = blocks[0].shape[0], first_rows(denoiser)
        lengths = {tokens, *rows}
        groups = frozenset(site.group for site in blocks if site.shape[0] in lengths)
        return cls(count, tokens, last, groups, rows)

    def mask(self, site: Site, tokens: int) -> Array:
        """Which of the site's tokens are registers, [tokens]."""
        rows = np.arange(tokens)
        if site.group in self.groups and tokens in self.rows:
            return np.asarray((rows >= self.rows[tokens]) & (rows < self.rows[tokens] + self.count))
        if site.group not in self.groups or tokens != self.tokens:
            return np.zeros(tokens, bool)
        return np.asarray(rows >= tokens - self.count if self.last else rows < self.count)


def first_rows(denoiser: Mapping[str, Any]) -> dict[int, int]:
    """Sequence length -> the first register's row, where that is not 0. `denoiser` is of the manifest's dsr."""
    rows = denoiser.get("rows", {})
    counts = rows.values() if isinstance(rows, Mapping) else [None]
    if not all(type(row) is int and row >= 0 for row in counts) or not all(str(key).isdecimal() for key in rows):
        raise ExportError(f"the manifest's dsr gives rows as {str(rows)[:40]!r}", hint="build the bundle again")
    return {int(length): row for length, row in rows.items()}


def _part(dsr: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = dsr.get(name, {})
    if not isinstance(part, Mapping):
        raise ExportError(f"the manifest's dsr.{name} is no object", hint="build the bundle again")
    return part


def _count(part: Mapping[str, Any], key: str) -> int:
    count = part.get(key, 0)
    if type(count) is not int or count < 0:
        raise ExportError(f"the manifest's dsr gives {key} as {str(count)[:40]!r}", hint="build the bundle again")
    return count


def role_statistics(error: SiteError, registers: RegisterRows) -> dict[str, dict[str, Any]]:
    """Role -> number of tokens over all images, SNR in dB and largest error; roles without tokens are left out."""
    site, truth = error.reference.site, error.reference.sample
    layout = Layout.of((len(truth.norms), *site.shape))
    if error.sample is None:
        return {}
    found = {}
    for role, mask in _masks(truth.norms, registers.mask(site, layout.tokens)).items():
        kept = mask[:, layout.token_rows()]
        if kept.any():
            found[role] = {"tokens": int(mask.sum()), **_statistics(truth.values[kept], error.sample.values[kept])}
    return found


def _masks(norms: Array, register: Array) -> dict[str, Array]:
    """Role -> [images, tokens]; from the reference's norms."""
    everywhere = np.broadcast_to(register, norms.shape)
    patches = norms[:, ~register]
    limit = OUTLIER * np.median(patches, axis=1, keepdims=True) if patches.size else np.inf
    outlier = ~everywhere & (norms > limit)
    return {"register": everywhere, "outlier": outlier, "patch": ~everywhere & ~outlier}


def _statistics(truth: Array, candidate: Array) -> dict[str, Any]:
    """All tokens of a role as one row; nothing is measured where the candidate is not finite."""
    found = compare(truth.reshape(1, -1), candidate.reshape(1, -1))
    if found.problem is not None:
        return {"snr_db": -IDENTICAL_DB, "max_abs": None, "problem": found.problem}
    return {"snr_db": found.snr_db, "max_abs": found.max_abs}
