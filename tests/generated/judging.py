"""Exports a random module and says what is wrong with the result, in plain words; nothing where all is well.

A verdict of failure is an honest answer in a low precision, where plain arithmetic of it fails too; and in FP32 only
where PyTorch, rounding otherwise, would fail itself on rows like the example's (an output of zeros but for rounding).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from dsr_export.backends.opening import bundle_runner
from dsr_export.bundle.reader import Bundle
from dsr_export.config import NO_INT8_OPTIONS, BatchRange, ExportConfig
from dsr_export.declarations.int8_options import Int8Options
from dsr_export.errors import ExportError
from dsr_export.parity.metrics import compare
from dsr_export.parity.tolerances import TOLERANCES
from dsr_export.pipeline import export
from dsr_export.subjects.other_rounding import OtherRounding
from graphs.precisions import Precision
from tests.generated.example_rows import HELD_OUT, held_out_rows
from tests.generated.half_witness import rounded
from tests.generated.random_modules import Recipe, call, module_of
from tests.generated.row_judging import Rows, difference, roughly

LOCATION = "tests.generated.random_modules:build"
LOW: dict[Precision, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}
EASY_DB = 10.0  # how far plain arithmetic must be within the tolerance, for a verdict of failure to be wrong


def faults(recipe: Recipe, precision: Precision, out: Path) -> list[str]:
    """What is wrong with the bundle that `recipe` becomes, which is written to `out`."""
    try:
        bundle = _exported(recipe, precision, out)
    except ExportError as error:
        return [] if _rightly_refused(recipe, precision, error) else [f"refused: {error.message} (hint: {error.hint})"]
    except Exception as error:
        return [f"crashed: {type(error).__name__}: {error}"]
    module = module_of(recipe)
    if bundle.report()["passed"]:
        return list(_wrong_rows(bundle, module, recipe, precision))
    if recipe.refusals() or not _easy(module, recipe, precision):
        return []
    return [f"failed its parity: {_failed_rows(bundle)}"]


def _exported(recipe: Recipe, precision: Precision, out: Path) -> Bundle:
    return export(
        ExportConfig(
            model=LOCATION,
            options={"recipe": recipe.text()},
            targets=("onnxruntime",),
            batch=BatchRange(1, 2, 3),
            precision=precision,
            int8=Int8Options(data="random:0") if precision == "int8" else NO_INT8_OPTIONS,
            out=out,
        )
    )


def _rightly_refused(recipe: Recipe, precision: Precision, error: ExportError) -> bool:
    said = [*recipe.refusals(), *(["no GEMM that can become INT8"] if precision == "int8" else [])]
    return error.hint is not None and any(re.search(pattern, error.message) for pattern in said)


def _failed_rows(bundle: Bundle) -> str:
    rows = [row for row in bundle.report()["parity"] if not row["passed"]]
    said = [f"{row['check']} {row['output']}: {row['problem'] or row['snr_db']}" for row in rows]
    return "; ".join(said) or "with all rows passed"


def _easy(module: nn.Module, recipe: Recipe, precision: Precision) -> bool:
    """Whether even plain arithmetic is far within the tolerance, on rows of all kinds but huge ones."""
    if precision not in ("fp32", *LOW):
        return False
    least = TOLERANCES[precision].snr_db + EASY_DB
    for form in ("drawn",) if precision == "fp32" else ("drawn", "zeros", "masked", "prefix"):
        rows = held_out_rows(recipe.needs(), form, 3, recipe.seed)
        plain = _otherwise(module, rows) if precision == "fp32" else rounded(module, rows, LOW[precision])
        for name, truth in call(module, rows).items():
            if truth.dtype == torch.float32 and (compare(truth.numpy(), plain[name].numpy()).snr_db or 0) < least:
                return False
    return True


def _otherwise(module: nn.Module, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    with OtherRounding():
        return call(module, rows)


def _wrong_rows(bundle: Bundle, module: nn.Module, recipe: Recipe, precision: Precision) -> Iterator[str]:
    """Rows on which the bundle, which passed, differs from PyTorch."""
    with bundle_runner(bundle, "onnxruntime") as runner:
        for i, form in enumerate(HELD_OUT):
            size = 1 + (recipe.seed + i) % 3
            where, rows = f"{form} rows at batch {size}", held_out_rows(recipe.needs(), form, size, recipe.seed)
            try:
                got = runner.infer({spec.name: rows[spec.name].numpy() for spec in bundle.manifest.input_specs()})
            except ExportError as error:
                yield f"{where}: {error.message}"
                continue
            for name, truth in call(module, rows).items():
                known = Rows(form, module, rows, name, truth.numpy())
                problem = difference(known, got[name]) if precision == "fp32" else roughly(known, got[name], precision)
                if problem is not None:
                    yield f"{where}, output {name}: {problem}"
