"""The norm that patch tokens leave an encoder through: the model's own final one without its affine, as RAE has it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dsr_export.errors import ExportError
from dsr_export.families.encoders.observed import HINT, Run, Step, is_norm, same

OPTION = "final_norm"
FORMS = ("plain", "affine", "none")
DEFAULT_EPS = 1e-6


def final_norm(run: Run, options: Mapping[str, Any]) -> nn.Module:
    """`plain`: without affine (the default); `affine`: as the model has it; `none`: tokens as the last layer made them.

    A model that normalises only what it pools, as CLIP does, gives that norm. Raises ExportError for an unknown form,
    and for a norm that is neither a LayerNorm nor an RMSNorm.
    """
    form = options.get(OPTION, "plain")
    if form not in FORMS:
        raise ExportError(f"option {OPTION}={form!r} is unknown", hint="choose from " + ", ".join(FORMS))
    if form == "none":
        return nn.Identity()
    step = _step(run)
    if step is not None:
        return copy.deepcopy(step.module) if form == "affine" else _plain(step)
    if form == "affine":
        raise ExportError("the model has no final norm", hint=f"leave out {OPTION}: tokens get one without affine")
    return nn.LayerNorm(run.tokens[-1].shape[2], eps=DEFAULT_EPS, elementwise_affine=False)


def _step(run: Run) -> Step | None:
    """The norm of all tokens behind the last layer, else one of what is pooled from them."""
    channels = run.tokens[-1].shape[2]
    norms = [step for step in run.after if is_norm(step.module) and step.given.shape[-1] == channels]
    whole = [step for step in norms if same(step.given, run.tokens[-1])]
    return next(iter([*whole, *norms]), None)


@torch.no_grad()
def _plain(step: Step) -> nn.Module:
    """The same norm without weight and bias, held against the model's own on what that read."""
    norm, channels = step.module, step.given.shape[-1]
    if isinstance(norm, nn.LayerNorm):
        return nn.LayerNorm(channels, eps=norm.eps, elementwise_affine=False)
    eps = next((getattr(norm, name) for name in ("variance_epsilon", "eps") if hasattr(norm, name)), None)
    weight = getattr(norm, "weight", None)
    plain = nn.RMSNorm(channels, eps=eps if eps is None else float(eps), elementwise_affine=False)
    if isinstance(weight, Tensor) and (
        step.made.is_meta or torch.allclose(plain(step.given) * weight, step.made, rtol=1e-4, atol=1e-4)
    ):
        return plain
    raise ExportError(f"the final norm {type(norm).__name__} is neither a LayerNorm nor an RMSNorm", hint=HINT)
