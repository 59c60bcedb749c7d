"""Everything that is measured of a part's pictures, and in which form it is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.errors import ExportError
from dsr_export.evaluation.distances import class_shares
from dsr_export.evaluation.features.clip_score import ClipScore
from dsr_export.evaluation.features.extractor import Extractor
from dsr_export.evaluation.features.lpips import Lpips
from dsr_export.evaluation.metrics import METRICS, Metric
from dsr_export.evaluation.moments import Moments
from dsr_export.evaluation.pair_figures import squared_errors, ssim

Array = npt.NDArray[Any]
CLASSIFIERS = ("fid", "is")
"""Metrics of one network: the Inception Score reads the classes of what makes FID's features."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The networks of the metrics that are asked for; `extractors` by metric."""

    metrics: tuple[Metric, ...]
    extractors: Mapping[str, Extractor] = field(default_factory=dict)
    clip: ClipScore | None = None
    lpips: Lpips | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(metric.name for metric in self.metrics)

    @property
    def digests(self) -> dict[str, str]:
        """What identifies the networks' weights, by metric."""
        others = {"clip": self.clip, "lpips": self.lpips}
        held = {name: each.digest for name, each in self.extractors.items()}
        return held | {name: each.digest for name, each in others.items() if each is not None}

    def features(self, pictures: Array) -> dict[str, Array]:
        """Moments of each extractor, and what `is` and `class-accuracy` are made of; see `of_side`."""
        found: dict[str, Array] = {}
        for name, extractor in self.extractors.items():
            extracted = extractor(pictures)
            found |= Moments.of(extracted.features).arrays(f"{name}/")
            if extracted.logits is not None:
                shares, entropies = class_shares(extracted.logits)
                found |= {f"{name}/shares": shares.mean(axis=0), f"{name}/negative_entropy": entropies}
                found[f"{name}/read"] = extracted.logits.argmax(axis=1)
        return found

    def of_side(self, pictures: Array, labels: Array, prompts: Sequence[str]) -> dict[str, Array]:
        """Of pictures [n, H, W, C] drawn for `labels` [n] or n prompts.

        `NAME/count`, `NAME/mean` [D], `NAME/scatter` [D, D] of each extractor, `NAME/shares` [K] and
        `NAME/negative_entropy` [n] of a classifier; `class-accuracy` and `clip` [n], one value a picture.
        """
        found = self.features(pictures)
        if "class-accuracy" in self.names:
            read = next(value for name, value in found.items() if name.endswith("/read"))
            found["class-accuracy"] = (read == labels).astype(np.float64)
        if self.clip is not None:
            found["clip"] = self.clip(pictures, prompts)
        _check_numbers(found)
        return {name: value for name, value in found.items() if not name.endswith("/read")}

    def of_pairs(self, made: Array, reference: Array) -> dict[str, Array]:
        """Of n pairs: `squared_error` always, `ssim` and `lpips` where they are asked for; [n] float64."""
        if made.shape != reference.shape:
            sizes = " and ".join("x".join(map(str, each.shape[1:])) for each in (made, reference))
            raise ExportError(f"the pictures to compare are of {sizes}", hint="give a reference of the same model")
        found = {"squared_error": squared_errors(made, reference)}
        if "ssim" in self.names:
            found["ssim"] = ssim(made, reference)
        if self.lpips is not None:
            found["lpips"] = self.lpips(made, reference)
        _check_numbers(found)
        return found


def _check_numbers(found: Mapping[str, Array]) -> None:
    """Raises ExportError for NaN: its mean is a figure that says nothing, and perhaps no limit stops it."""
    for name, values in found.items():
        if not np.isfinite(values).all():
            metric = name.partition("/")[0]
            raise ExportError(f"the network of {metric} makes NaN or infinities of a picture", hint=_BROKEN)


_BROKEN = "check the files of --network: they are damaged, or of half precision that overflows"


def open_panel(metrics: tuple[Metric, ...], weights: Mapping[str, Path], *, digits: bool) -> Panel:
    """The networks of `metrics`, from `weights` by metric; the packaged reader where the pictures are `digits`.

    Raises:
        ExportError: a metric's weights are missing, or given for one that takes none or is not asked for.
    """
    _check_named(metrics, weights)
    names = {metric.name for metric in metrics}
    extractors: dict[str, Extractor] = {}
    if names & {*CLASSIFIERS, "class-accuracy"}:
        extractors["fid"] = _classifier(names, weights, digits)
    if "fd-dinov2" in names:
        extractors["fd-dinov2"] = _encoder(_given("fd-dinov2", weights))
    clip = ClipScore(_given("clip", weights)) if "clip" in names else None
    lpips = Lpips(_given("lpips", weights)) if "lpips" in names else None
    return Panel(metrics=metrics, extractors=extractors, clip=clip, lpips=lpips)


def _check_named(metrics: Sequence[Metric], weights: Mapping[str, Path]) -> None:
    for name, path in weights.items():
        if name not in METRICS or METRICS[name].weights is None:
            takers = ", ".join(each.name for each in METRICS.values() if each.weights is not None)
            raise ExportError(f"'{name}' takes no --network", hint=f"they are for {takers}")
        if name not in {metric.name for metric in metrics}:
            raise ExportError(f"--network {name}={path}, and '{name}' is not asked for", hint="add it to --metrics")
        if not path.exists():
            raise ExportError(f"the weights of {name} are not there: {path}", hint="nothing is downloaded here")


def _given(name: str, weights: Mapping[str, Path]) -> Path:
    if name not in weights:
        hint = f"--network {name}=PATH: {METRICS[name].weights}"
        raise ExportError(f"{METRICS[name].title} needs a network, and nothing is downloaded", hint=hint)
    return weights[name]


def _classifier(names: set[str], weights: Mapping[str, Path], digits: bool) -> Extractor:
    """What makes FID's features and reads classes."""
    path = weights.get("fid", weights.get("is"))
    if weights.get("is", path) != path:
        raise ExportError(
            "the Inception Score reads the classes of the network of fid, and --network names another for it",
            hint="measure one of them at a time: --metrics fid, then --metrics is",
        )
    if path is None and digits:
        from dsr_export.evaluation.features.digit_reader import PackagedReader

        return PackagedReader()
    if "class-accuracy" in names:
        raise ExportError("a requested class is read by the packaged reader of digits alone", hint=_NAMED)
    if path is None:
        path = _given("fid" if "fid" in names else "is", weights)
    if path.is_file():
        from dsr_export.evaluation.features.inception import Inception

        return Inception(path)
    if "is" in names:
        raise ExportError(f"{path} reads no classes, and the Inception Score is of these", hint="give Inception's file")
    return _encoder(path)


_NAMED = "name the metrics without it, for example --metrics fid,psnr"


def _encoder(path: Path) -> Extractor:
    from dsr_export.evaluation.features.vision_folder import VisionFolder

    if not path.is_dir():
        raise ExportError(f"{path} is no folder", hint="give the folder of a transformers model")
    return VisionFolder(path)
