"""Makes a denoiser's configuration from base sizes, a checkpoint's shapes and a user's options, and checks it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor

from dsr_export.errors import ExportError, did_you_mean
from dsr_export.families.config_bounds import check_config
from dsr_export.limits import MOST_REGISTERS
from dsr_export.short_repr import short_repr

Value = bool | int | float | Sequence[int]
Config = TypeVar("Config")
Problems = list[tuple[bool, str]]
RELEASED_STARTS: Mapping[int, int] = {12: 4, 24: 8, 28: 8}
"""Depth of the trunk -> `register_start` (arXiv 2605.05206)."""
_POSITIVE: Mapping[str, int] = {
    "input_size": 4096,
    "patch_size": 1024,
    "in_channels": 2**16,
    "hidden_size": 2**16,
    "depth": 1024,
    "num_heads": 1024,
    "num_classes": 2**20,
}
"""Sizes -> the largest that is built: a configuration may say anything, and memory would be taken for it."""
_BOTH = ("patch_size", "num_heads")
"""Options of which one number stands for a pair, as in the released constructor."""


@dataclass(frozen=True, kw_only=True)
class Schema(Generic[Config]):
    """How a family is configured: its dataclass, what a checkpoint's shapes say, and what cannot be built.

    `problems` pairs each condition that must not hold with its message.
    """

    family: str
    config: type[Config]
    sizes_of: Callable[[Mapping[str, Tensor]], dict[str, Value]]
    problems: Callable[[Config], Problems]

    @property
    def defaults(self) -> dict[str, Value]:
        return dict(vars(self.config()))


def resolve(
    schema: Schema[Config],
    base: Mapping[str, Value],
    *,
    registers: int | None = None,
    options: Mapping[str, Value] | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> Config:
    """The checked configuration. Later wins: `base`, the shapes in `state`, `registers`, the user's `options`.

    Raises ExportError for an unknown name, a value of the wrong type, sizes that cannot be built, or trained
    registers (in `state`) of which nothing says where they enter.
    """
    options = checked(schema, options or {}, owner=schema.family, label="option ")
    if registers is not None and registers < 0:
        raise ExportError(f"--registers {registers} is negative", hint="give 0 for none")
    values = {**base, **({} if state is None else schema.sizes_of(state))}
    if registers is not None:
        if options.get("register_len", registers) != registers:
            raise ExportError(f"--registers {registers} and register_len {options['register_len']} differ")
        values["register_len"] = registers
    values |= options
    values |= _register_fields(schema, values, options, trained=_held(schema, state))
    config = schema.config(**values)
    _check_values(schema, config)
    return config


def default_register_start(depth: int) -> int:
    """The released choice: block 8 for depths 24 and 28, block 4 for depth 12, in proportion below."""
    return RELEASED_STARTS.get(depth, 8 if depth >= 24 else depth // 3)


def _held(schema: Schema[Any], state: Mapping[str, Tensor] | None) -> Value:
    """Registers in a checkpoint."""
    return 0 if state is None else schema.sizes_of(state)["register_len"]


def _register_fields(
    schema: Schema[Any], values: Mapping[str, Value], options: Mapping[str, Value], *, trained: Value
) -> dict[str, Value]:
    """`register_len` alone turns registers on or off, unless `register_conditioning` is given too.

    Of `trained` registers it must be known where they enter: another block would be wrong without any sign of it.
    """
    count = values.get("register_len", 0)
    if not options.get("register_conditioning", count != 0):
        return {"register_conditioning": False, "register_len": 0, "register_start": 0}
    depth = values.get("depth", schema.defaults["depth"])
    trunk = int(depth[0] if isinstance(depth, Sequence) else depth)
    if trained and trained == count and "register_start" not in values and trunk not in RELEASED_STARTS:
        raise ExportError(
            f"the checkpoint has registers, and nothing says which of {trunk} blocks they enter before",
            hint="no checkpoint holds it: set start in [denoiser] of a --dsr file; in Python, give register_start",
        )
    start = values.get("register_start", default_register_start(trunk))
    return {"register_conditioning": True, "register_len": count, "register_start": start}


def checked(schema: Schema[Any], options: Mapping[str, Any], *, owner: str, label: str) -> dict[str, Value]:
    """The options of a family by name, pairs as tuples.

    Raises ExportError for unknown names, which `owner` does not have, and for wrong types, of `label` and the name.
    """
    defaults = schema.defaults
    for name in options:
        if name not in defaults:
            names = "known options: " + ", ".join(defaults)
            near = did_you_mean(name, defaults)
            raise ExportError(f"{owner} has no option '{name}'", hint=f"{near} {names}" if near else names)
    return {name: _typed(label + name, name, value, defaults[name]) for name, value in options.items()}


def _typed(where: str, name: str, value: Any, default: Value) -> Value:
    if isinstance(default, tuple):
        pair = (value, value) if type(value) is int and name in _BOTH else value
        if isinstance(pair, list | tuple) and len(pair) == 2 and all(type(each) is int for each in pair):
            return tuple(pair)
        raise ExportError(f"{where}={short_repr(value)} is not a pair of whole numbers (trunk, head)")
    wanted = type(default)
    if type(value) is wanted or (wanted is float and type(value) is int):
        return value
    raise ExportError(f"{where}={short_repr(value)} is not of type {wanted.__name__}")


def _check_values(schema: Schema[Config], config: Config) -> None:
    for name, most in _POSITIVE.items():
        value = getattr(config, name)
        each = value if isinstance(value, tuple) else (value,)
        if min(each) < 1 or max(each) > most:
            bound = "at least 1" if min(each) < 1 else f"at most {most}"
            raise ExportError(f"{name} is {short_repr(value)}, but must be {bound}")
    check_config(vars(config), schema.family)
    registers = getattr(config, "register_len", 0)
    if registers > MOST_REGISTERS:
        raise ExportError(f"register_len is {short_repr(registers)}, but must be at most {MOST_REGISTERS}")
    for problem, message in schema.problems(config):
        if problem:
            raise ExportError(message)


def stack_problems(c: Any, *own: tuple[bool, str]) -> Problems:
    """What no stack of blocks can be built of, of a configuration with the names of `TrunkConfig`; `own` is a family's.

    The checks of heads come before `own`, since these divide by them.
    """
    misplaced = c.register_conditioning and not 0 <= c.register_start < c.depth
    return [
        (c.hidden_size % c.num_heads != 0, f"hidden_size {c.hidden_size} is not divisible by num_heads {c.num_heads}"),
        *own,
        (c.input_size % c.patch_size != 0, f"patch_size {c.patch_size} does not divide input_size {c.input_size}"),
        (not 0 < c.mlp_ratio < math.inf, f"mlp_ratio {c.mlp_ratio} is not a positive number"),
        (c.register_conditioning and c.register_len < 1, f"register_len is {c.register_len}, but must be at least 1"),
        (c.register_len < 0, f"register_len {c.register_len} is negative"),
        (misplaced, f"register_start {c.register_start} is outside [0, {c.depth}), the blocks of this model"),
    ]


def undivided_positions(hidden_size: int) -> tuple[bool, str]:
    """A width that 2-D sin-cos positions do not fit."""
    return hidden_size % 4 != 0, f"hidden_size {hidden_size} is not divisible by 4, as sin-cos positions need"


def undivided_heads(c: Any) -> tuple[bool, str]:
    """A head that 2-D RoPE does not fit."""
    head = c.hidden_size // c.num_heads
    return head % 4 != 0, f"head size {head} (hidden_size / num_heads) is not divisible by 4, as 2-D RoPE needs"


def no_dropout(share: float) -> tuple[bool, str]:
    """A share of labels that cannot be left out."""
    return not 0 <= share < 1, f"class_dropout_prob {share} is not in [0, 1)"
