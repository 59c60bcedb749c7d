"""Rows that real data brings and random draws do not: zeros, padding, equal tokens, nothing to attend to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.parity.tolerances import TOLERANCES

Array = npt.NDArray[Any]
Row = Mapping[str, Array]
Infer = Callable[[dict[str, Array]], dict[str, Array]]
ADDITIVE = -1e3  # what is added to a score to mask it is at least this far down
NUDGE, SETTLED = 1e-6, 1e-3
"""A relative change of the inputs by a few of FP32's steps, and by how much the outputs may then change, of the loudest
row's root mean square. What changes more is rounding, blown up (the variance of equal tokens, over a tiny epsilon), of
which the reference itself has no answer."""
STEP, ROOM = 2.0**-23, 4
"""Zeros are not nudged, and may become equal tokens on the way (a bias alone). So the reference is also asked what it
makes where it rounds each number one step otherwise: another runtime rounds otherwise a few times over, and FP32's
tolerance must leave it room for that."""


def special_rows(known: Mapping[str, Array], *, empty: bool) -> dict[str, Array]:
    """Variants of the first of the rows `known` [n, ...], batch first; the row itself stands in front, twice.

    With `empty`, its float inputs are zero, zero in their second half, or of equal tokens; each alone too. Masks,
    which all of `known` tell from other inputs, are off, on, and off for the first of their rows.
    """
    base = {name: np.asarray(values[0]) for name, values in known.items()}
    masks = {name: ends for name, values in known.items() if (ends := _mask_ends(values)) is not None}
    floats = [name for name, row in base.items() if row.dtype.kind == "f" and name not in masks]
    rows: list[Row] = [base, base, *_masked(base, masks), *(_emptied(base, floats) if empty else ())]
    return {name: np.stack([row[name] for row in rows]) for name in base}


def settled_rows(
    infer: Infer, rows: Mapping[str, Array], otherwise: Infer | None = None
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Those of `rows` that the reference takes and has a finite answer for, the same one for inputs a rounding away.

    With them, what it makes of them. `otherwise` is the reference as it makes them where it rounds otherwise.
    """
    made = _tried(infer, dict(rows))
    if made is None:
        return _one_by_one(infer, rows, otherwise)
    near = _tried(infer, _nudged(rows))
    other = None if otherwise is None else _tried(otherwise, _stepped(rows))
    good = [_finite(values) for values in made.values()]
    good += [] if near is None else [_settled(values, near[name]) for name, values in made.items()]
    good += [] if other is None else [_steady(values, other[name]) for name, values in made.items()]
    kept = np.flatnonzero(np.all(good, axis=0))
    return (_chosen(rows, kept), _chosen(made, kept)) if len(kept) else ({}, {})


def _nudged(rows: Mapping[str, Array]) -> dict[str, Array]:
    """Zeros and masks stay what they are; every other element goes its own way, so that equal tokens part."""
    rng = np.random.default_rng(0)

    def nudge(values: Array) -> Array:
        signs = rng.choice(np.array([-1, 1], values.dtype), values.shape)
        return np.asarray(values * (1 + NUDGE * signs), values.dtype)

    def is_mask(values: Array) -> bool:
        return values.dtype.kind != "f" or len(np.unique(values)) <= 2

    return {name: values if is_mask(values) else nudge(values) for name, values in rows.items()}


def _stepped(rows: Mapping[str, Array]) -> dict[str, Array]:
    """Whole numbers stay what they are, and equal tokens stay equal."""
    return {
        name: np.where(values == np.round(values), values, values * np.float32(1 + STEP)).astype(values.dtype)
        if values.dtype.kind == "f"
        else values
        for name, values in rows.items()
    }


def _steady(values: Array, other: Array) -> npt.NDArray[np.bool_]:
    """One verdict a row, by FP32's own bounds; integers are not judged on such rows."""
    if values.dtype.kind != "f" or values.shape != other.shape:
        return np.ones(len(values), bool)
    bounds = TOLERANCES["fp32"]
    with np.errstate(all="ignore"):
        flat, moved = (each.reshape(len(values), -1).astype(np.float64) for each in (values, other - values))
        span = np.ptp(flat[np.isfinite(flat)]) if np.isfinite(flat).any() else 0.0
        largest = (bounds.max_abs or np.inf) * max(1.0, span) / ROOM
        mean = 10 ** (-bounds.psnr_db / 20) * span / ROOM
        return np.asarray((np.abs(moved).max(axis=1) <= largest) & (np.sqrt(np.square(moved).mean(axis=1)) <= mean))


def _settled(values: Array, near: Array) -> npt.NDArray[np.bool_]:
    """One verdict a row; integers are not judged on such rows."""
    if values.dtype.kind != "f" or values.shape != near.shape:
        return np.ones(len(values), bool)
    with np.errstate(all="ignore"):
        flat, moved = (each.reshape(len(values), -1).astype(np.float64) for each in (values, near - values))
        size = np.sqrt(np.square(np.where(np.isfinite(flat), flat, 0)).mean(axis=1)).max(initial=0.0)
        return np.asarray(np.sqrt(np.square(moved).mean(axis=1)) <= SETTLED * size)


def _one_by_one(
    infer: Infer, rows: Mapping[str, Array], otherwise: Infer | None
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Where one of the rows is refused, those that are not, and are finite."""
    count = len(next(iter(rows.values())))
    taken = [i for i in range(count) if _tried(infer, _chosen(rows, np.array([i]))) is not None]
    return settled_rows(infer, _chosen(rows, np.array(taken)), otherwise) if 0 < len(taken) < count else ({}, {})


def _tried(infer: Infer, rows: dict[str, Array]) -> dict[str, Array] | None:
    """None where the reference refuses them: a model may ask for more than its input types say."""
    try:
        return infer(rows)
    except Exception:  # the user's code may raise anything
        return None


def _chosen(rows: Mapping[str, Array], which: npt.NDArray[np.intp]) -> dict[str, Array]:
    return {name: np.ascontiguousarray(values[which]) for name, values in rows.items()}


def _finite(values: Array) -> npt.NDArray[np.bool_]:
    """One verdict a row."""
    if values.dtype.kind != "f":
        return np.ones(len(values), bool)
    return np.asarray(np.isfinite(values.reshape(len(values), -1)).all(axis=1))


def _mask_ends(values: Array) -> tuple[Any, Any] | None:
    """What an input holds where it masks and where it does not, lower one first; None where it is no mask."""
    if values.dtype.kind == "b":
        return False, True
    found = np.unique(values).tolist()
    if set(found) <= {0, 1} and 1 in found:
        return 0, 1
    if len(found) == 2 and found[1] == 0 and found[0] <= ADDITIVE:
        return found[0], 0
    return None


def _masked(base: Row, masks: Mapping[str, tuple[Any, Any]]) -> Iterator[Row]:
    for end in (0, 1):
        for names in _together_and_alone(list(masks)):
            yield {**base, **{name: np.full_like(base[name], masks[name][end]) for name in names}}
    for name in masks:
        if base[name].ndim > 1:
            first = base[name].copy()
            first[..., 0, :] = masks[name][0]
            yield {**base, name: first}


def _emptied(base: Row, floats: list[str]) -> Iterator[Row]:
    """Zeros for what has axes of its own, and each input alone: the time may not be zero where tokens may."""
    wide = [name for name in floats if base[name].ndim]
    for names in _together_and_alone(wide):
        yield {**base, **{name: np.zeros_like(base[name]) for name in names}}
    yield from ({**base, name: np.zeros_like(base[name])} for name in floats if not base[name].ndim)
    tokens = [name for name in wide if base[name].ndim > 1]
    if tokens:
        yield {**base, **{name: _half(base[name]) for name in tokens}}
        yield {**base, **{name: np.broadcast_to(base[name][:1], base[name].shape) for name in tokens}}


def _half(row: Array) -> Array:
    """Padding: the second half of the first axis is zero."""
    padded = row.copy()
    padded[len(row) // 2 :] = 0
    return padded


def _together_and_alone(names: list[str]) -> Iterator[list[str]]:
    if names:
        yield names
    if len(names) > 1:
        yield from ([name] for name in names)
