"""The model before and after: outlier ratios, attention, what the gate does where, and samples from the same noise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dsr_export.backends.base import as_denoiser
from dsr_export.diagnosis.denoiser import DenoiserDiagnosis, Run
from dsr_export.diagnosis.models.denoiser import DenoiserTokens
from dsr_export.diagnosis.thresholds import find_limit
from dsr_export.diagnosis.walk import Measured, WalkSettings, shortened, walk
from dsr_export.families.network_parts.trunk import Trunk
from dsr_export.progress import Reporter
from dsr_export.registers import RecursiveReplacement
from dsr_export.sampling import sample, seeded_noise
from dsr_export.subject import Subject
from dsr_export.subjects.torch_runner import TorchRunner

Array = npt.NDArray[Any]
PICTURES = 8
PICTURE_CHANNELS = (1, 3)


@dataclass
class GateUse:
    """Of one site at one time: tokens that came, tokens that were changed, and the sum of the gate over these."""

    tokens: int = 0
    changed: int = 0
    strength: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Compared:
    """`gates` by block and time; `pictures` are [2, n, C, H, W] in [-1, 1], before and after, where there are any."""

    diagnosis: DenoiserDiagnosis
    gates: dict[tuple[int, float], GateUse] = field(default_factory=dict)
    pictures: Array | None = None


def compared(base: Subject, fitted: Subject, shown: Reporter, seed: int) -> Compared | None:
    """Both walk from the same noise; None for models that diagnosis does not walk by itself."""
    if not isinstance(base.module, Trunk) or not isinstance(fitted.module, Trunk) or base.sampler is None:
        return None
    settings = WalkSettings(seed=seed)
    before, after = DenoiserTokens(base.module), DenoiserTokens(fitted.module)
    with before.sites(()), shown.stage("before") as bar:
        off = walk(base, before, settings, bar)
    with after.own_sites(), gates_watched(fitted.module) as gates, shown.stage("after") as bar:
        own = walk(fitted, after, settings, bar)
    return Compared(
        diagnosis=_diagnosis(base, fitted, off, own, settings),
        gates=gates,
        pictures=_pictures(base, before, fitted, seed, shown),
    )


def _diagnosis(
    base: Subject, fitted: Subject, off: Measured, own: Measured, settings: WalkSettings
) -> DenoiserDiagnosis:
    after = DenoiserTokens(fitted.module)  # type: ignore[arg-type]
    limits = tuple(find_limit(counts, off.norms.bins) for counts in off.norms.by_layer())
    edges = [None if limit is None else limit.edge for limit in limits]
    sites = tuple(sorted(layer for group in fitted.dsr.denoiser.replace for layer in group.layers))
    return DenoiserDiagnosis(
        subject=fitted,
        settings=settings,
        times=tuple(float(t) for t in shortened(base, settings).grid[:-1]),
        limits=limits,
        runs=(Run("off", (), off, off.norms.ratios(edges)), Run("own", sites, own, own.norms.ratios(edges))),
        replace=(),
        patches=after.patches,
        registers=after.register_count,
    )


@contextmanager
def gates_watched(module: Trunk) -> Iterator[dict[tuple[int, float], GateUse]]:
    """While active, sums up what each gated site does, by block and time."""
    uses: dict[tuple[int, float], GateUse] = {}
    now = [0.0]

    def entering(_: nn.Module, args: tuple[Any, ...]) -> None:
        now[0] = float(args[1][0])

    with ExitStack() as hooks:
        hooks.enter_context(module.register_forward_pre_hook(entering))
        for name, site in module.replacements.items():
            if isinstance(site, RecursiveReplacement) and site.choice == "gate":
                hooks.enter_context(site.register_forward_hook(_summing(int(name), now, uses)))
        yield uses


def _summing(layer: int, now: list[float], uses: dict[tuple[int, float], GateUse]) -> Any:
    def hook(site: Any, args: tuple[Any, ...], output: Tensor) -> None:
        tokens = args[0].float()
        changed = (args[0] != output).any(dim=-1)
        strength = (tokens @ site.gate_weight.float() + site.gate_bias.float()).sigmoid()[..., 0]
        use = uses.setdefault((layer, now[0]), GateUse())
        use.tokens += changed.numel()
        use.changed += int(changed.sum())
        use.strength += float(torch.where(changed, strength, 0.0).sum())

    return hook


def _pictures(base: Subject, before: DenoiserTokens, fitted: Subject, seed: int, shown: Reporter) -> Array | None:
    """Of models that draw pictures, not latents."""
    shape = base.inputs[0].with_batch(1)[1:]
    if shape[0] not in PICTURE_CHANNELS or base.sampler is None:
        return None
    noise = seeded_noise(seed, PICTURES, shape)
    labels = np.arange(PICTURES, dtype=np.int64) % max(base.num_classes, 1)
    with shown.stage("samples"):
        with before.sites(()):
            one = sample(as_denoiser(TorchRunner(base)), base.sampler, noise, labels)
        other = sample(as_denoiser(TorchRunner(fitted)), base.sampler, noise, labels)
    return np.stack([one, other])
