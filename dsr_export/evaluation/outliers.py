"""How many tokens are outliers under each method: the ratio that the method is meant to bring down."""

from __future__ import annotations

from dsr_export.diagnosis.models.denoiser import DenoiserTokens
from dsr_export.diagnosis.thresholds import Limit, find_limit
from dsr_export.diagnosis.walk import WalkSettings, walk
from dsr_export.families.network_parts.trunk import Trunk
from dsr_export.progress import Reporter
from dsr_export.subject import Subject


class OutlierRatio:
    """The share of patch tokens above their block's limit, all blocks and times of a short walk together.

    Limits are those of the first model asked for, which is the one without replacement.
    """

    def __init__(self, shown: Reporter, seed: int) -> None:
        self._shown, self._settings = shown, WalkSettings(seed=seed)
        self._limits: tuple[Limit | None, ...] | None = None

    def __call__(self, subject: Subject) -> float | None:
        """None for a model that diagnosis does not walk by itself."""
        if not isinstance(subject.module, Trunk):
            return None
        tokens = DenoiserTokens(subject.module)
        with tokens.own_sites(), self._shown.stage("outlier ratio") as bar:
            norms = walk(subject, tokens, self._settings, bar).norms
        if self._limits is None:
            self._limits = tuple(find_limit(counts, norms.bins) for counts in norms.by_layer())
        return float(norms.ratios([None if limit is None else limit.edge for limit in self._limits]).mean())
