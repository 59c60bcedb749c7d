"""The figures that `dsr-export evaluate` knows, and what each needs. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dsr_export.errors import ExportError, did_you_mean

Kind = Literal["distribution", "population", "pair", "picture"]


@dataclass(frozen=True)
class Metric:
    """One figure. `kind` says what it is of: generated pictures against data (`distribution`), generated pictures
    alone (`population`, and `picture` where it is a mean of theirs), or pairs with a reference's pictures (`pair`).

    `weights` is what `--network NAME=PATH` takes for it; None where it needs none.
    """

    name: str
    title: str
    kind: Kind
    higher: bool
    weights: str | None = None


_ALL = (
    Metric("fid", "FID", "distribution", higher=False, weights="Inception's file, or a transformers folder"),
    Metric("is", "Inception Score", "population", higher=True, weights="Inception's file"),
    Metric("fd-dinov2", "FD-DINOv2", "distribution", higher=False, weights="DINOv2's transformers folder"),
    Metric("clip", "CLIP score", "picture", higher=True, weights="CLIP's transformers folder"),
    Metric("lpips", "LPIPS", "pair", higher=False, weights="AlexNet's file"),
    Metric("psnr", "PSNR, dB", "pair", higher=True),
    Metric("ssim", "SSIM", "pair", higher=True),
    Metric("class-accuracy", "requested class read", "picture", higher=True),
)
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _ALL}


def metric(name: str) -> Metric:
    """The figure called `name`. ExportError where there is none."""
    if name not in METRICS:
        hint = did_you_mean(name, METRICS) or f"choose from {', '.join(METRICS)}"
        raise ExportError(f"there is no metric '{name}'", hint=hint)
    return METRICS[name]


def parsed(names: str) -> tuple[Metric, ...]:
    """Metrics from `a,b,c`, each once, in the table's order. ExportError for unknown ones, or none."""
    asked = [name.strip() for name in names.split(",") if name.strip()]
    if not asked:
        raise ExportError("no metric is asked for", hint=f"choose from {', '.join(METRICS)}")
    wanted = {metric(name).name for name in asked}
    return tuple(each for each in _ALL if each.name in wanted)


def of_kind(metrics: Sequence[Metric], *kinds: Kind) -> tuple[Metric, ...]:
    return tuple(metric for metric in metrics if metric.kind in kinds)
