"""`dsr-export diagnose`."""

from __future__ import annotations

from pathlib import Path

import click

from dsr_export.cli.options.arguments import argument_options
from dsr_export.cli.process.streams import Command, answer, answer_json
from dsr_export.config import ModelRequest
from dsr_export.limits import MOST_NEURONS, MOST_REGISTERS, MOST_SEED


@click.command("diagnose", cls=Command)
@click.argument("model", default="digits")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Weights of a registered model.")
@click.option("--weights", metavar="NAME", help="Which of a checkpoint's weights: `ema`, `model`, or an entry's name.")
@click.option("--random-weights", type=int, metavar="SEED", help="Seeded random weights of a registered model.")
@click.option(
    "--registers",
    type=click.IntRange(0, MOST_REGISTERS),
    help="Diffusion registers; 0 for none. [default: the model's]",
)
@click.option("--dsr", type=click.Path(path_type=Path), help="TOML file with the model's DSR spec, to be judged.")
@argument_options
@click.option("--model-dir", type=click.Path(path_type=Path), help="Folder of a diffusers pipeline, in place of MODEL.")
@click.option("--prompts", type=click.Path(path_type=Path), help="Pipeline: a text file, one prompt a line.")
@click.option("--inputs", type=click.Path(path_type=Path), help="Transformer alone: its inputs, npz or a folder.")
@click.option("--images", type=click.Path(path_type=Path), help="Encoder: folder of PNG or JPEG files, or an npz file.")
@click.option("--detect-layer", type=int, help="Encoder: where outliers are told; -1 is the last. [default: family's]")
@click.option(
    "--threshold", type=click.FloatRange(min=0, min_open=True), help="Encoder: norm of an outlier. [default: family's]"
)
@click.option(
    "--highest-layer", type=click.IntRange(min=0), help="Encoder: last layer with register neurons. [default: family's]"
)
@click.option(
    "--top-k", type=click.IntRange(1, MOST_NEURONS), help="Encoder: neurons kept each round. [default: family's]"
)
@click.option(
    "--rounds", type=click.IntRange(min=1, max=8), help="Encoder: 2 repeats on the repaired one. [default: 1]"
)
@click.option("--count", type=click.IntRange(min=1, max=1024), help="Denoiser: images. [default: 8, or one a prompt]")
@click.option("--steps", type=click.IntRange(min=1, max=999), help="Denoiser: time steps of each. [default: 10]")
@click.option("--seed", type=click.IntRange(0, MOST_SEED), help="Denoiser: seed of the noise. [default: 0]")
@click.option("--write-dsr", type=click.Path(path_type=Path), metavar="FILE", help="One more copy of dsr.toml.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the results. [default: ./MODEL.diagnosis]")
@click.option("--force", is_flag=True, help="Replace an existing folder that is no diagnosis.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, and nothing else.")
def command(
    model: str,
    checkpoint: Path | None,
    weights: str | None,
    random_weights: int | None,
    registers: int | None,
    dsr: Path | None,
    model_dir: Path | None,
    arguments: dict[str, bool | int | float | str],
    as_json: bool,
    **options: object,
) -> None:
    """Find MODEL's outlier tokens, and what to do about them: a page, thresholds, register neurons, a dsr.toml."""
    from dsr_export.diagnosis.diagnose import DiagnosisOptions, diagnose
    from dsr_export.progress import reporter

    request = ModelRequest(
        model=model,
        checkpoint=checkpoint,
        weights=weights,
        random_weights=random_weights,
        registers=registers,
        dsr=dsr,
        model_dir=model_dir,
        options=arguments,
    )
    made = diagnose(request, DiagnosisOptions(**options), reporter=reporter())  # type: ignore[arg-type]
    if as_json:
        answer_json(made)
        return
    verdict = made["verdict"]
    answer("\n".join([verdict["headline"], *(f"  {detail}" for detail in verdict["details"])]))
    answer(f"page: {made['page']}")
    if verdict["command"]:
        answer(f"next: {verdict['command']}")
