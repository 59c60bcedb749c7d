"""Figures of whole populations, from what parts have summed up: torchmetrics computes FID, the rest is one line."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.errors import ExportError
from dsr_export.evaluation.moments import Moments

Array = npt.NDArray[Any]


def frechet_distance(made: Moments, real: Moments) -> float:
    """FID of two populations of features, in float64 (M. Heusel et al., 2017).

    Raises:
        ExportError: a population has no more rows than features, so that its covariance says nothing; or the two
            are not of the same features.
    """
    if made.width != real.width:
        raise ExportError(f"features of width {made.width} against data of width {real.width}", hint=_SAME)
    for which, each in (("pictures", made), ("pictures of data", real)):
        check_enough(each.count, each.width, which)
    return resampled_distance(made, real)


def resampled_distance(made: Moments, real: Moments) -> float:
    """`frechet_distance` of populations that were drawn with replacement: these may hold fewer rows than features.

    Only their spread is asked for, and a short part that is drawn twice says nothing of how many pictures there are.
    Means are taken from the real one's, which a distance does not see: torchmetrics subtracts squares of means from
    squares of features, and means far from 0 would leave rounding. ExportError where features overflow.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        sides = {"real": replace(real, mean=real.mean - real.mean), "fake": replace(made, mean=made.mean - real.mean)}
    for moments in sides.values():
        _check_size(moments)
    metric = _metric(made.width)
    metric.reset()  # it remembers what it computed
    for side, moments in sides.items():
        _set(metric, side, moments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # its sums were set, and not updated
        found = float(metric.compute())
    if not math.isfinite(found):
        raise _too_large()
    return max(found, 0.0)  # rounding makes a distance of equal populations -1e-14


_LARGEST = 1e140  # of sums of squares: a product of two covariances is a number then


def _check_size(moments: Moments) -> None:
    """Raises ExportError for sums that would overflow: LAPACK ends the process over a matrix with infinities."""
    spread, apart = (np.abs(each).max(initial=0.0) for each in (moments.scatter, moments.mean))
    if not (spread < _LARGEST and apart < math.sqrt(_LARGEST / moments.count)):  # NaN is not
        raise _too_large()


def _too_large() -> ExportError:
    return ExportError("features are so large that their distance is no number", hint="check --data and --network")


_SAME = "both must come from one network: take its statistics, or give the pictures themselves with --data"


def check_enough(count: int, width: int, which: str = "pictures") -> None:
    """Raises ExportError where `count` rows of features of `width` have no covariance of full rank."""
    if count <= width:
        raise ExportError(
            f"{count} {which} are too few for a distance of {width} features",
            hint=f"it needs more than {width}, and is biased below some ten times as many: --count {10 * width}",
        )


def inception_score(mean_shares: Array, mean_negative_entropy: float) -> float:
    """exp of the mean divergence of pictures' class shares from all pictures' (T. Salimans et al., 2016), unsplit.

    `mean_shares` [K] are softmax shares of classes, `mean_negative_entropy` that of sum(p log p).
    """
    present = mean_shares[mean_shares > 0]
    return float(np.exp(mean_negative_entropy - (present * np.log(present)).sum()))


def class_shares(logits: Array) -> tuple[Array, Array]:
    """Softmax shares [n, K] in float64, and sum(p log p) of each picture [n]."""
    shifted = np.asarray(logits, np.float64) - logits.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    shares = np.exp(logs)
    return shares, (shares * logs).sum(axis=1)


@cache
def _metric(width: int) -> Any:
    """Made once: resampling asks for it hundreds of times."""
    import torch

    torchmetrics = fid_module()

    class Given(torch.nn.Module):
        num_features = width

    return torchmetrics.FrechetInceptionDistance(feature=Given()).set_dtype(torch.float64)


def fid_module() -> Any:
    """`torchmetrics.image.fid`. ExportError where it is not installed."""
    try:
        import torchmetrics.image.fid as found
    except ImportError as error:
        raise ExportError(
            f"figures of pictures need the package torchmetrics: {error}", hint="pip install torchmetrics"
        ) from error
    return found


def _set(metric: Any, side: str, moments: Moments) -> None:
    """What the metric would have summed up itself."""
    import torch

    products = moments.scatter + moments.count * np.outer(moments.mean, moments.mean)
    setattr(metric, f"{side}_features_sum", torch.from_numpy(moments.mean * moments.count))
    setattr(metric, f"{side}_features_cov_sum", torch.from_numpy(products))
    setattr(metric, f"{side}_features_num_samples", torch.tensor(moments.count))
    metric.orig_dtype = torch.float64
