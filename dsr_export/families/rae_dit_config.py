"""Makes a `RaeDitConfig` from a model's base sizes, a checkpoint's shapes and a user's options, and checks it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from torch import Tensor

from dsr_export.errors import ExportError, did_you_mean
from dsr_export.families.rae_dit import RaeDitConfig

Value = bool | int | float
_DEFAULTS: dict[str, Value] = dataclasses.asdict(RaeDitConfig())
_POSITIVE = ("input_size", "patch_size", "in_channels", "hidden_size", "depth", "num_heads", "num_classes")


def resolve_config(
    base: Mapping[str, Value],
    *,
    registers: int | None = None,
    options: Mapping[str, Value] | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> RaeDitConfig:
    """The checked configuration. Later wins: `base`, the shapes in `state`, `registers`, the user's `options`.

    Raises ExportError for an unknown name, a value of the wrong type, or sizes that cannot be built.
    """
    options = dict(options or {})
    _check_names(options)
    if registers is not None and registers < 0:
        raise ExportError(f"--registers {registers} is negative", hint="give 0 for none")
    values = {**base, **({} if state is None else sizes_of(state))}
    if registers is not None:
        if options.get("register_len", registers) != registers:
            raise ExportError(f"--registers {registers} and register_len {options['register_len']} differ")
        values["register_len"] = registers
    values |= options
    values |= _register_fields(values, options)
    config = RaeDitConfig(**values)  # type: ignore[arg-type]
    _check_values(config)
    return config


def sizes_of(state: Mapping[str, Tensor]) -> dict[str, Value]:
    """Sizes that can be read off a checkpoint's shapes: registers, latent size and channels, patch size."""
    sizes: dict[str, Value] = {"register_len": 0}
    tokens, patch, position = (state.get(k) for k in ("register_tokens", "x_embedder.proj.weight", "pos_embed"))
    if tokens is not None and tokens.ndim == 3:
        sizes["register_len"] = tokens.shape[1]
    if patch is not None and patch.ndim == 4:
        sizes |= {"in_channels": patch.shape[1], "patch_size": patch.shape[2]}
        if position is not None and position.ndim == 3:
            sizes["input_size"] = math.isqrt(position.shape[1]) * patch.shape[2]
    return sizes


def default_register_start(depth: int) -> int:
    """The released choice: block 8 for depths 24 and 28, block 4 for depth 12, in proportion below."""
    return 8 if depth >= 24 else depth // 3


def _register_fields(values: Mapping[str, Value], options: Mapping[str, Value]) -> dict[str, Value]:
    """`register_len` alone turns registers on or off, unless `register_conditioning` is given too."""
    count = values.get("register_len", 0)
    if not options.get("register_conditioning", count > 0):
        return {"register_conditioning": False, "register_len": 0, "register_start": 0}
    depth = values.get("depth", _DEFAULTS["depth"])
    start = values.get("register_start", default_register_start(int(depth)))
    return {"register_conditioning": True, "register_len": count, "register_start": start}


def _check_names(options: Mapping[str, Value]) -> None:
    for name, value in options.items():
        if name not in _DEFAULTS:
            names = "known options: " + ", ".join(_DEFAULTS)
            near = did_you_mean(name, _DEFAULTS)
            raise ExportError(f"rae-dit has no option '{name}'", hint=f"{near} {names}" if near else names)
        wanted = type(_DEFAULTS[name])
        fits = type(value) is wanted or (wanted is float and type(value) is int)
        if not fits:
            raise ExportError(f"option {name}={value!r} is not of type {wanted.__name__}")


def _check_values(config: RaeDitConfig) -> None:
    for name in _POSITIVE:
        if getattr(config, name) < 1:
            raise ExportError(f"{name} is {getattr(config, name)}, but must be at least 1")
    for problem, message in _problems(config):
        if problem:
            raise ExportError(message)


def _problems(c: RaeDitConfig) -> list[tuple[bool, str]]:
    head = c.hidden_size // c.num_heads
    misplaced = c.register_conditioning and not 0 <= c.register_start < c.depth
    return [
        (c.hidden_size % c.num_heads != 0, f"hidden_size {c.hidden_size} is not divisible by num_heads {c.num_heads}"),
        (head % 4 != 0, f"head size {head} (hidden_size / num_heads) is not divisible by 4, as 2-D RoPE needs"),
        (c.input_size % c.patch_size != 0, f"patch_size {c.patch_size} does not divide input_size {c.input_size}"),
        (not 0 < c.mlp_ratio < math.inf, f"mlp_ratio {c.mlp_ratio} is not a positive number"),
        (not 0 <= c.class_dropout_prob < 1, f"class_dropout_prob {c.class_dropout_prob} is not in [0, 1)"),
        (c.register_conditioning and c.register_len < 1, f"register_len is {c.register_len}, but must be at least 1"),
        (c.register_len < 0, f"register_len {c.register_len} is negative"),
        (misplaced, f"register_start {c.register_start} is outside [0, {c.depth}), the blocks of this model"),
    ]
