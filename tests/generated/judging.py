"""Exports a random module and says what is wrong with the result, in plain words; nothing where all is well.

A verdict of failure is an honest answer in FP16, where plain half arithmetic fails too, and never in FP32.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dsr_export.bundle.reader import Bundle
from dsr_export.config import BatchRange, ExportConfig
from dsr_export.errors import ExportError
from dsr_export.parity.metrics import compare
from dsr_export.pipeline import export
from dsr_export.runners import bundle_runner
from graphs.artifacts import Precision
from tests.generated.example_rows import HELD_OUT, held_out_rows
from tests.generated.half_witness import rounded_half
from tests.generated.random_modules import Recipe, call, module_of

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]
LOCATION = "tests.generated.random_modules:build"
EASY_DB, DRAWN_DB, EDGE_DB = 50.0, 34.0, 20.0
STEP = 2.0**-23


def faults(recipe: Recipe, precision: Precision, out: Path) -> list[str]:
    """What is wrong with the bundle that `recipe` becomes, which is written to `out`."""
    try:
        bundle = _exported(recipe, precision, out)
    except ExportError as error:
        return [f"refused: {error.message} (hint: {error.hint})"]
    except Exception as error:
        return [f"crashed: {type(error).__name__}: {error}"]
    module = module_of(recipe)
    if not bundle.report()["passed"]:
        if precision == "fp32" or _easy_in_half(module, recipe):
            return [f"failed its parity: {_failed_rows(bundle)}"]
        return []
    return list(_wrong_rows(bundle, module, recipe, precision))


def _exported(recipe: Recipe, precision: Precision, out: Path) -> Bundle:
    return export(
        ExportConfig(
            model=LOCATION,
            options={"recipe": recipe.text()},
            targets=("onnxruntime",),
            batch=BatchRange(1, 2, 3),
            precision=precision,
            out=out,
        )
    )


def _failed_rows(bundle: Bundle) -> str:
    rows = [row for part in bundle.report()["parity"] for row in part["rows"] if not row["passed"]]
    return "; ".join(f"{row['check']} {row['output']}: {row['problem'] or row['snr_db']}" for row in rows)


def _wrong_rows(bundle: Bundle, module: nn.Module, recipe: Recipe, precision: Precision) -> Iterator[str]:
    """Rows on which the bundle, which passed, differs from PyTorch."""
    judge = _exactly if precision == "fp32" else _roughly
    with bundle_runner(bundle, "onnxruntime") as runner:
        for i, form in enumerate(HELD_OUT):
            size = 1 + (recipe.seed + i) % 3
            rows = held_out_rows(recipe.needs(), form, size, recipe.seed)
            try:
                got = runner.infer({name: rows[name].numpy() for name in _order(bundle)})
            except ExportError as error:
                yield f"{form} rows at batch {size}: {error.message}"
                continue
            for name, truth in call(module, rows).items():
                problem = judge(form, module, rows, name, truth.numpy(), got[name])
                if problem is not None:
                    yield f"{form} rows at batch {size}, output {name}: {problem}"


def _order(bundle: Bundle) -> list[str]:
    return [spec.name for spec in bundle.manifest.input_specs()]


def _exactly(
    form: str, module: nn.Module, rows: Mapping[str, Tensor], name: str, truth: Array, got: Array
) -> str | None:
    """The same kinds of numbers in the same places; and as near as the module's own conditioning lets FP32 be."""
    if truth.dtype.kind != "f":
        return None if np.array_equal(truth, got) else f"{got} where PyTorch makes {truth}"
    spread = _spread(module, rows, name, truth)
    sure = np.isfinite(spread) | ~np.isfinite(truth)
    strange = _strange(truth, got, sure)
    if strange is not None:
        return strange
    finite = np.isfinite(truth) & np.isfinite(got) & np.isfinite(spread)
    error = np.abs(got - truth, where=finite, out=np.zeros_like(truth))
    span = float(np.ptp(truth[finite])) if finite.any() else 0.0
    allowed = 1e-4 * max(1.0, span) + 20 * np.where(np.isfinite(spread), spread, 0.0)
    worst = int(np.argmax(error - allowed))
    if error.ravel()[worst] <= allowed.ravel()[worst]:
        return None
    return f"{got.ravel()[worst]} where PyTorch makes {truth.ravel()[worst]}"


def _strange(truth: Array, got: Array, sure: Array) -> str | None:
    if truth.shape != got.shape:
        return f"the shape {got.shape} where PyTorch has {truth.shape}"
    for word, of in (("NaN", np.isnan), ("inf", np.isposinf), ("-inf", np.isneginf)):
        differ = (of(truth) != of(got)) & sure
        if differ.any():
            return f"{word} {np.count_nonzero(of(got))} times where PyTorch has it {np.count_nonzero(of(truth))} times"
    return None


def _roughly(
    form: str, module: nn.Module, rows: Mapping[str, Tensor], name: str, truth: Array, got: Array
) -> str | None:
    """Rows like the example's within the tolerance of the build; others finite, and not far off."""
    if form == "huge":  # beyond the range that the audit saw
        return None
    if truth.dtype.kind != "f":
        return None if np.array_equal(truth, got) else f"{got} where PyTorch makes {truth}"
    strange = _strange(truth, got, np.ones(truth.shape, bool))
    if strange is not None or not np.isfinite(truth).all():
        return strange
    found, least = compare(truth, got), DRAWN_DB if form == "drawn" else EDGE_DB
    if (found.snr_db or 0.0) >= least or (found.max_abs or 0.0) <= 1e-3:
        return None
    plain = compare(truth, rounded_half(module, rows)[name].numpy()).snr_db
    if plain is None or plain < least + 10:
        return None
    return f"{found.snr_db:.1f} dB, where plain half arithmetic has {plain:.1f} dB"


def _easy_in_half(module: nn.Module, recipe: Recipe) -> bool:
    """Whether even plain half arithmetic is far within the tolerance, on rows like the example's and of zeros."""
    for form in ("drawn", "zeros", "masked", "prefix"):
        rows = held_out_rows(recipe.needs(), form, 3, recipe.seed)
        plain = rounded_half(module, rows)
        for name, truth in call(module, rows).items():
            if truth.dtype == torch.float32 and (compare(truth.numpy(), plain[name].numpy()).snr_db or 0) < EASY_DB:
                return False
    return True


def _spread(module: nn.Module, rows: Mapping[str, Tensor], name: str, truth: Array) -> Array:
    """How far rounding of inputs and weights by one step moves each output; NaN where it changes a kind of number."""
    generator = torch.Generator().manual_seed(0)

    def moved(value: Tensor) -> Tensor:
        return (
            value * (1 + STEP * torch.randn(value.shape, generator=generator)) if value.is_floating_point() else value
        )

    worst = np.zeros(truth.shape, np.float32)
    for _ in range(2):
        other = copy.deepcopy(module)
        for weight in [*other.parameters(), *other.buffers()]:
            weight.data = moved(weight.data)
        made = call(other, {key: moved(value) for key, value in rows.items()})[name].numpy()
        with np.errstate(invalid="ignore"):
            worst = np.maximum(worst, np.abs(made - truth))
    return np.asarray(worst)
