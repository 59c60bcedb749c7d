"""What a build of a pipeline asks of each of its parts beside the transformer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from dsr_export.config import NO_INT8_OPTIONS, BatchRange, ExportConfig
from dsr_export.errors import ExportError
from dsr_export.pipelines.folder import VAES
from graphs.precisions import PRECISIONS, Precision

OPTION = "part"
HALF: Precision = "fp16"


def part_configs(config: ExportConfig, roles: Sequence[str], targets: tuple[str, ...]) -> dict[str, ExportConfig]:
    """Role -> what is asked of it: as of the transformer, but for what was said of that part.

    The autoencoder has batches of half as many: guidance takes two of the transformer's rows for a picture.
    Where the transformer is quantised, the parts are not: they have no calibration.

    Raises:
        ExportError: something was said of a part that is not built, or a part is to be quantised.
    """
    for field, flag in (("part_precision", "--component-precision"), ("part_batch", "--component-batch")):
        _check_known(getattr(config, field), roles, flag)
    return {role: _of(config, role, targets) for role in roles}


def _of(config: ExportConfig, role: str, targets: tuple[str, ...]) -> ExportConfig:
    usual = HALF if PRECISIONS[config.precision].quantized else config.precision
    precision = config.part_precision.get(role, usual)
    if PRECISIONS[precision].quantized:
        raise ExportError(f"{role} can't be built in {precision}: it has no calibration", hint="use fp16 for it")
    return replace(
        config,
        checkpoint=None,
        weights=None,
        registers=None,
        dsr=None,
        loras=() if role in VAES else config.loras,
        options={**config.options, OPTION: role},
        precision=precision,
        targets=targets,
        batch=config.part_batch.get(role, _halved(config.batch) if role in VAES else config.batch),
        trajectory_steps=None,
        components=(),
        parts=(),
        part_precision={},
        part_batch={},
        int8=NO_INT8_OPTIONS,
        out=None,
        fuse_step=False,
    )


def _halved(batch: BatchRange) -> BatchRange:
    return BatchRange(*(max(1, size // 2) for size in (batch.min, batch.opt, batch.max)))


def _check_known(said: Iterable[str], roles: Sequence[str], flag: str) -> None:
    for role in said:
        if role not in roles:
            built = f"built are {', '.join(roles)}" if roles else "give --components with it"
            raise ExportError(f"{flag} {role[:80]}: that part is not built", hint=built)
