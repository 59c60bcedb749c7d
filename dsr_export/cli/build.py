"""`dsr-export build`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dsr_export.cli.options.arguments import argument_options
from dsr_export.cli.options.fleet import fleet_options, show_fleet
from dsr_export.cli.options.int8 import int8_options
from dsr_export.cli.options.lora import lora_options
from dsr_export.cli.options.named import Named
from dsr_export.cli.options.parts import pipeline_options
from dsr_export.cli.printing.calibration_share import show_share
from dsr_export.cli.printing.report import show_report
from dsr_export.cli.process.streams import Command
from dsr_export.config import BatchRange, ExportConfig
from dsr_export.declarations.int8_options import Int8Options
from dsr_export.declarations.lora_file import LoraFile
from dsr_export.fleet.request import FleetRequest
from dsr_export.limits import MOST_REGISTERS, MOST_STEPS
from graphs.precisions import PRECISIONS

_NO_CELL = "a cell is a bundle, and it makes none; run it without --matrix"


class ConfigOnly:
    """As a context's object: nothing is built, and what would be is put here."""

    config: ExportConfig | None = None


@click.command("build", cls=Command)
@click.argument("model", default="digits")
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="Weights: safetensors, or PyTorch's without pickled code."
)
@click.option("--weights", metavar="NAME", help="Which of a checkpoint's weights: `ema`, `model`, or an entry's name.")
@click.option(
    "--random-weights", type=int, metavar="SEED", help="Seeded random weights, for trying out an architecture."
)
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), help="Released YAML (stage2.yaml), in place of MODEL."
)
@click.option("--model-dir", type=click.Path(path_type=Path), help="Folder of a diffusers transformer or pipeline.")
@click.option(
    "--registers",
    type=click.IntRange(0, MOST_REGISTERS),
    help="Diffusion registers; 0 for none. [default: the model's]",
)
@click.option(
    "--dsr",
    type=click.Path(path_type=Path),
    help="TOML file: what is done to the model's tokens; inserted into an .onnx.",
)
@click.option(
    "--latent-stats", type=click.Path(path_type=Path), help="Encoder, decoder: normalise latents by this file."
)
@click.option("--encoder", metavar="FAMILY", help="Decoder: whose pixels it makes. [default: siglip]")
@argument_options
@lora_options
@click.option("--precision", type=Named(*PRECISIONS), default="fp32", show_default=True)
@click.option("--target", "targets", multiple=True, help="Where it will run; repeatable. See `dsr-export doctor`.")
@click.option("--batch", default="1,2,8", show_default=True, metavar="MIN,OPT,MAX", help="Batch sizes engines serve.")
@click.option(
    "--trajectory-steps",
    type=click.IntRange(2, MOST_STEPS),
    help="Grid points of the parity walk. [default: the sampler's]",
)
@click.option(
    "--component",
    "components",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="BUNDLE",
    help="Denoiser: a built decoder or encoder to put into the bundle; repeatable.",
)
@pipeline_options
@int8_options
@click.option("--out", type=click.Path(path_type=Path), help="Bundle folder. [default: ./MODEL.dsr]")
@click.option(
    "--strict",
    is_flag=True,
    help="Fail (exit 3) on advice too: attentions in several kernels, GEMMs not in the codes chosen, stray FP32.",
)
@click.option(
    "--fuse-step",
    is_flag=True,
    help="Denoiser: also graphs and engines that hold guidance and the sampler's update, one call a step.",
)
@click.option("--force", is_flag=True, help="Replace an existing folder.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, and nothing else.")
@fleet_options
@click.pass_context
def command(context: click.Context, /, as_json: bool, fleet: FleetRequest | None, **given: Any) -> None:
    """Build a verified bundle with engines from MODEL (default: the packaged `digits`).

    With --matrix, many bundles: the cells of a TOML file, each with a receipt in the folder --out, and one summary.
    Exit code 3 where a cell failed parity, 1 where one could not be built.
    """
    from dsr_export.progress import reporter

    if fleet is not None:
        calibrated: Int8Options = given["int8"]
        if calibrated.share is not None:
            raise click.UsageError(f"--calibration-only does not go with --matrix: {_NO_CELL}")
        show_fleet(context, fleet, given["out"], as_json=as_json, shown=reporter())
        return
    config = config_of(**given)
    wanted = context.find_object(ConfigOnly)
    if wanted is not None:
        if config.int8.share is not None:
            raise click.UsageError(f"--calibration-only is nothing for a cell: {_NO_CELL}")
        wanted.config = config
        return
    if config.int8.share is not None:
        show_share(config, as_json=as_json, shown=reporter())
        return
    from dsr_export.pipeline import export
    from dsr_export.reports.record import Report

    show_report(Report.read(export(config, reporter=reporter()).report()), as_json=as_json)


def config_of(
    *,
    model: str,
    checkpoint: Path | None,
    weights: str | None,
    random_weights: int | None,
    config_file: Path | None,
    model_dir: Path | None,
    registers: int | None,
    dsr: Path | None,
    latent_stats: Path | None,
    encoder: str | None,
    arguments: dict[str, bool | int | float | str],
    loras: tuple[LoraFile, ...],
    precision: str,
    targets: tuple[str, ...],
    batch: str,
    trajectory_steps: int | None,
    components: tuple[Path, ...],
    parts: tuple[str, ...],
    part_precision: dict[str, str],
    part_batch: dict[str, str],
    out: Path | None,
    strict: bool,
    fuse_step: bool,
    force: bool,
    int8: Int8Options,
    **_: Any,
) -> ExportConfig:
    """What the options of `build` ask for. ExportError for values that do not go together."""
    return ExportConfig(
        model=model,
        checkpoint=checkpoint,
        weights=weights,
        random_weights=random_weights,
        config_file=config_file,
        model_dir=model_dir,
        registers=registers,
        dsr=dsr,
        options={**arguments, **_given(latent_stats=latent_stats, encoder=encoder)},
        loras=loras,
        precision=precision,  # type: ignore[arg-type]
        targets=targets,
        batch=BatchRange.parse(batch),
        trajectory_steps=trajectory_steps,
        components=components,
        parts=parts,
        part_precision=part_precision,  # type: ignore[arg-type]
        part_batch={role: BatchRange.parse(text) for role, text in part_batch.items()},
        int8=int8,
        out=out,
        strict=strict,
        fuse_step=fuse_step,
        force=force,
    )


def _given(**options: object) -> dict[str, str]:
    """The constructor arguments that were asked for."""
    return {name: str(value) for name, value in options.items() if value is not None}
