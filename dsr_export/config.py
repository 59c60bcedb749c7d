"""`ModelRequest` and `ExportConfig`: everything a build is asked to do, checked when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dsr_export.declarations.int8_options import Int8Options
from dsr_export.declarations.lora_file import LoraFile
from dsr_export.errors import ExportError
from dsr_export.limits import MOST_BATCH, MOST_DIGITS, MOST_REGISTERS, MOST_STEPS
from graphs.precisions import PRECISIONS, Precision, quantized_precisions

NO_INT8_OPTIONS = Int8Options()


@dataclass(frozen=True)
class BatchRange:
    """Batch sizes an engine serves: `min <= opt <= max`, tuned for `opt`."""

    min: int = 1
    opt: int = 2
    max: int = 8

    def __post_init__(self) -> None:
        if self.max > MOST_BATCH:
            raise ExportError(f"batches of {self.max} are asked for", hint=f"give up to {MOST_BATCH}")
        if not 1 <= self.min <= self.opt <= self.max:
            raise ExportError(
                f"batch range {self.min},{self.opt},{self.max} is not ordered",
                hint="give --batch MIN,OPT,MAX with 1 <= MIN <= OPT <= MAX, for example --batch 1,2,8",
            )

    @classmethod
    def parse(cls, text: str) -> BatchRange:
        parts = text.split(",")
        if len(parts) != 3 or not all(part.strip().isdecimal() and len(part) <= MOST_DIGITS for part in parts):
            raise ExportError(
                f"--batch {text[:80]!r} is not MIN,OPT,MAX", hint=f"whole numbers up to {MOST_BATCH}: --batch 1,2,8"
            )
        return cls(*(int(part) for part in parts))

    def sizes(self) -> tuple[int, ...]:
        """The distinct sizes worth checking, ascending."""
        return tuple(sorted({self.min, self.opt, self.max}))


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """Which model, with which weights, and what is done to its tokens. Paths are used as given.

    `model` is a registered name, `package.module:callable`, a `.pt2` or a `.onnx` file; `model_dir` a diffusers folder
    to take in its place; `config_file` a released YAML; `dsr` a TOML file with a `DsrSpec`, whose sites are inserted
    where the model is a `.onnx`; `weights` which of a checkpoint's weights (`WeightFile.entry`); `options` constructor
    arguments of the family; `loras` adapters that are merged into the transformer of a diffusers folder, in order.
    """

    model: str = "digits"
    checkpoint: Path | None = None
    weights: str | None = None
    random_weights: int | None = None
    registers: int | None = None
    config_file: Path | None = None
    dsr: Path | None = None
    model_dir: Path | None = None
    options: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    loras: tuple[LoraFile, ...] = ()

    def __post_init__(self) -> None:
        if self.registers is not None and self.registers > MOST_REGISTERS:
            raise ExportError(f"{self.registers} registers are asked for", hint=f"give up to {MOST_REGISTERS}")


@dataclass(frozen=True, kw_only=True)
class ExportConfig(ModelRequest):
    """Everything one build is asked to do; see `dsr-export build --help`.

    `components` are built bundles that go into this one: the denoiser's decoder and encoder. `parts` are those of a
    pipeline's folder that are built with its transformer, by name, or `all`; `part_precision` and `part_batch` say for
    some of them what is not as the transformer's. `strict` makes failed checks of the advice about engines.
    `fuse_step` adds graphs, and engines of them, that hold a whole sampler step.
    """

    precision: Precision = "fp32"
    targets: tuple[str, ...] = ()
    batch: BatchRange = BatchRange()
    out: Path | None = None
    force: bool = False
    trajectory_steps: int | None = None
    components: tuple[Path, ...] = ()
    parts: tuple[str, ...] = ()
    part_precision: Mapping[str, Precision] = field(default_factory=dict)
    part_batch: Mapping[str, BatchRange] = field(default_factory=dict)
    int8: Int8Options = NO_INT8_OPTIONS
    strict: bool = False
    fuse_step: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trajectory_steps is not None and not 2 <= self.trajectory_steps <= MOST_STEPS:
            raise ExportError(f"a walk of {self.trajectory_steps} grid points", hint=f"give 2 to {MOST_STEPS}")
        for precision in (self.precision, *self.part_precision.values()):
            if precision not in PRECISIONS:
                raise ExportError(f"there is no precision '{precision}'", hint=f"choose from {', '.join(PRECISIONS)}")
        if self.parts and self.model_dir is None:
            raise ExportError("--components are those of a pipeline's folder", hint="give --model-dir FOLDER with it")
        if self.int8.rank is not None:
            _check_branches(self.precision)
        if not PRECISIONS[self.precision].quantized and self.int8 != NO_INT8_OPTIONS:
            raise ExportError(
                f"calibration options do not apply to {self.precision}",
                hint=f"give --precision {' or '.join(quantized_precisions())} with them",
            )


def _check_branches(precision: Precision) -> None:
    """Raises ExportError where the precision has none, whose rank could be chosen."""
    from graphs.quantize.schemes import SCHEMES  # not at the top: it loads onnx, and the command line lists options

    branched = [name for name, scheme in SCHEMES.items() if scheme.has_branch]
    if precision not in branched:
        raise ExportError(
            f"{precision} has no branches, and a rank of them is asked for",
            hint=f"give --precision {' or '.join(branched)}, or leave --rank away",
        )
