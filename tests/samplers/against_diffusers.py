"""One walk by a sampler of ours and by diffusers' scheduler of the same configuration, around the same denoiser."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import diffusers
import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from dsr_export.errors import ExportError
from dsr_export.samplers import sampler_from_config
from dsr_export.samplers.sampler import Array

SHAPE = (2, 4, 3, 3)
ROUNDED = {torch.exp, torch.log, torch.sqrt, torch.Tensor.sqrt, torch.Tensor.pow, torch.Tensor.__pow__}


class RoundedToNearest(TorchFunctionMode):
    """float32 exponentials, logarithms and roots of PyTorch rounded to nearest.

    Its libraries round about one in a hundred to the other neighbour, which one depends on the processor; differences
    of many steps show it. With it every setting agrees; without it, those that pipelines use still do to 1e-6.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in ROUNDED and args[0].dtype == torch.float32:
            return func(args[0].double(), *args[1:], **(kwargs or {})).float()
        return func(*args, **(kwargs or {}))


def denoised(x: Array, t: float, channels: int) -> Array:
    """A smooth function of state and time, with as many channels as asked for."""
    made = np.tanh(0.7 * x + np.cos(0.003 * t)) + 0.3 * np.sin(x)
    return np.concatenate([made, made + 1], axis=1)[:, :channels].astype(x.dtype)


def walks(
    config: Mapping[str, Any],
    steps: int,
    *,
    dtype: Any = np.float64,
    shape: tuple[int, ...] = SHAPE,
    channels: int | None = None,
    start: Mapping[str, Any] | None = None,
    eta: float = 0.0,
) -> tuple[tuple[Array, list[Array]], tuple[Array, list[Array]]]:
    """(timesteps, states of every step), ours and theirs."""
    generator = np.random.default_rng(7)
    x = generator.standard_normal(shape).astype(dtype)
    noises = generator.standard_normal((2 * steps + 2, *shape)).astype(dtype)
    given, width = dict(start or {}), channels or shape[1]
    return _ours(config, steps, x, noises, width, {**given, "eta": eta}), _theirs(
        config, steps, x, noises, width, given, eta
    )


def has_schedule(config: Mapping[str, Any], steps: int) -> bool:
    """Whether we walk it: schedules with a number that is not finite are refused."""
    try:
        sampler_from_config(config).start(steps)
    except ExportError as error:
        if "no finite schedule" in error.message:
            return False
        raise
    return True


def their_states(config: Mapping[str, Any], steps: int, *, shape: tuple[int, ...]) -> list[Array]:
    """Theirs alone, for a walk that we refuse."""
    noises = np.random.default_rng(7).standard_normal((2 * steps + 3, *shape))
    return _theirs(config, steps, noises[0], noises[1:], shape[1], {}, 0.0)[1]


def _ours(
    config: Mapping[str, Any], steps: int, x: Array, noises: Array, width: int, given: dict[str, Any]
) -> tuple[Array, list[Array]]:
    walk, states = sampler_from_config(config).start(steps, **given), []
    for i, t in enumerate(walk.timesteps):
        prediction = denoised(walk.scaled(x, i), float(t), width)
        x = walk.step(prediction, i, x, noises[i] if walk.needs_noise else None)
        states.append(x)
    return walk.timesteps, states


def _theirs(
    config: Mapping[str, Any], steps: int, x: Array, noises: Array, width: int, given: dict[str, Any], eta: float
) -> tuple[Array, list[Array]]:
    scheduler = scheduler_of(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it makes arrays of tensors in a way that is to go
        scheduler.set_timesteps(steps, **given)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # else a timestep that comes twice at the start would be searched for, and skipped
    states, state = [], torch.from_numpy(x)
    for i, t in enumerate(scheduler.timesteps):
        prediction = torch.from_numpy(denoised(state.numpy(), float(t), width))
        state = _stepped(scheduler, prediction, t, state, torch.from_numpy(noises[i]), eta)
        states.append(state.numpy())
    return scheduler.timesteps.numpy(), states


def assert_same_states(ours: list[Array], theirs: list[Array], bound: float = 1e-6) -> None:
    """Equal within `bound`, of the largest state where they grow."""
    assert len(ours) == len(theirs) and all(state.dtype == theirs[0].dtype for state in ours)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=bound * max(1.0, float(np.abs(theirs).max())))


def scheduler_of(config: Mapping[str, Any]) -> Any:
    """diffusers' scheduler, without its advice to use another one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return getattr(diffusers, config["_class_name"]).from_config(dict(config))


def _stepped(scheduler: Any, prediction: Any, t: Any, state: Any, noise: Any, eta: float) -> Any:
    if isinstance(scheduler, diffusers.FlowMatchEulerDiscreteScheduler):
        module = diffusers.schedulers.scheduling_flow_match_euler_discrete
        drawn, module.randn_tensor = module.randn_tensor, lambda shape, dtype, **_: noise.to(dtype)
        try:
            return scheduler.step(prediction, t, state).prev_sample
        finally:
            module.randn_tensor = drawn
    extra = {"eta": eta} if isinstance(scheduler, diffusers.DDIMScheduler) else {}
    return scheduler.step(prediction, t, state, variance_noise=noise, **extra).prev_sample
