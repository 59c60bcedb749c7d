"""The options of a quantised build, as one decorator."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from calibration.method_names import METHOD_NAMES
from dsr_export.cli.options.named import Named
from dsr_export.limits import MOST_STEPS

if TYPE_CHECKING:
    from dsr_export.declarations.share import Share

_NAMES = (
    *("calibration", "calibration_images", "calibration_steps", "calibration_tables", "int8_method", "int8_budget"),
    *("calibration_only", "shard", "calibration_parts", "rank"),
)
_OPTIONS = (
    click.option(
        "--calibration",
        default="trajectory",
        show_default=True,
        metavar="DATA",
        help="Codes: `trajectory` (its own), a folder or npz of inputs, prompts of a pipeline (.txt), or random:SEED.",
    ),
    click.option(
        "--calibration-images",
        type=click.IntRange(1, 4096),
        default=4,
        show_default=True,
        help="Codes: trajectories to walk.",
    ),
    click.option(
        "--calibration-steps",
        type=click.IntRange(2, MOST_STEPS),
        help="Codes: grid points of each. [default: the sampler's]",
    ),
    click.option(
        "--calibration-table",
        "calibration_tables",
        type=click.Path(path_type=Path),
        multiple=True,
        help="Codes: calibration.json of an earlier build of this model, in place of data; several are merged.",
    ),
    click.option(
        "--calibration-only",
        is_flag=True,
        help="Codes: measure into a folder --out, and build nothing. [default: ./MODEL.calibration]",
    ),
    click.option("--shard", metavar="I/N", help="Codes, of --calibration-only: measure one of N shares of the data."),
    click.option(
        "--calibration-parts",
        type=click.Path(path_type=Path),
        multiple=True,
        metavar="FOLDER",
        help="Codes: the shares that --calibration-only measured, in place of measuring again; repeatable.",
    ),
    click.option(
        "--method",
        "--int8-method",
        "int8_method",
        type=Named(*METHOD_NAMES),
        default="outlier-aware",
        show_default=True,
        help="Codes: how ranges are chosen.",
    ),
    click.option(
        "--budget",
        "--int8-budget",
        "int8_budget",
        type=click.FloatRange(0, 100),
        metavar="DB",
        help="Codes: SNR the output keeps; GEMMs take wider formats for it, FP16 at last. "
        "[default: int8 20, fp8 26, int4 17, nvfp4-weights 17, nvfp4 15]",
    ),
    click.option(
        "--rank",
        type=click.IntRange(0, 64),
        help="nvfp4: of the branch in FP16 beside each GEMM; 0 for none. [default: 32, less for few inputs]",
    ),
)


def int8_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options to a command and hands it `int8`, an `Int8Options`."""

    @functools.wraps(command)
    def collected(**given: Any) -> Any:
        from dsr_export.declarations.int8_options import Int8Options

        data, images, steps, tables, method, budget, only, shard, parts, rank = (given.pop(name) for name in _NAMES)
        int8 = Int8Options(
            method=method,
            data=data,
            images=images,
            steps=steps,
            tables=tuple(tables),
            parts=tuple(parts),
            share=_share(shard, only=only),
            budget_db=budget,
            rank=rank,
        )
        return command(**given, int8=int8)

    for option in reversed(_OPTIONS):
        collected = option(collected)
    return collected


def _share(text: str | None, *, only: bool) -> Share | None:
    """What is measured alone. UsageError for a share of nothing."""
    from dsr_export.declarations.share import Share

    if text is None:
        return Share(1, 1) if only else None
    if not only:
        raise click.UsageError("--shard goes with --calibration-only")
    return Share.parse(text, option="--shard")
