"""`dsr-export fit`."""

from __future__ import annotations

from pathlib import Path

import click

from dsr_export.cli.options.arguments import argument_options
from dsr_export.cli.process.streams import Command, answer, answer_json
from dsr_export.config import ModelRequest
from dsr_export.limits import MOST_SEED


@click.command("fit", cls=Command)
@click.argument("model", default="digits")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Weights of a registered model.")
@click.option("--weights", metavar="NAME", help="Which of a checkpoint's weights: `ema`, `model`, or an entry's name.")
@click.option("--random-weights", type=int, metavar="SEED", help="Seeded random weights of a registered model.")
@argument_options
@click.option("--model-dir", type=click.Path(path_type=Path), help="Folder of a diffusers transformer, for MODEL.")
@click.option(
    "--dsr",
    type=click.Path(path_type=Path),
    required=True,
    help="TOML file with what is to be trained: `registers = 8` in a [[denoiser.replace]], or in [denoiser].",
)
@click.option(
    "--data",
    default="self",
    show_default=True,
    metavar="PATH|self",
    help="npz or a folder of them: `latents` and `labels` for the model's own loss, or the model's inputs by name for "
    "distillation. `self`: distillation on its own trajectories.",
)
@click.option("--steps", type=click.IntRange(1, 10_000_000), default=1000, show_default=True)
@click.option("--batch", type=click.IntRange(1, 65_536), default=32, show_default=True, help="Rows of a step.")
@click.option("--rate", type=float, default=1e-2, show_default=True, help="Largest learning rate.")
@click.option("--seed", type=click.IntRange(0, MOST_SEED), default=0, show_default=True)
@click.option("--norm-weight", type=float, default=0.0, show_default=True, help="Of a term on token norms.")
@click.option("--device", default="cpu", show_default=True, metavar="cpu|cuda", help="Where the steps run.")
@click.option("--data-licence", "licence", metavar="TEXT", help="What the model card says of the data.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the results. [default: ./MODEL.registers]")
@click.option("--force", is_flag=True, help="Replace an existing folder that is no training.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, and nothing else.")
def command(
    model: str,
    checkpoint: Path | None,
    weights: str | None,
    random_weights: int | None,
    arguments: dict[str, bool | int | float | str],
    model_dir: Path | None,
    out: Path | None,
    as_json: bool,
    **options: object,
) -> None:
    """Train registers and gates for MODEL, whose weights stay as they are: a folder that `build --dsr` takes.

    A run that is stopped goes on where it was. The same command gives the same bytes on the same machine.
    """
    from dsr_export.fitting.fit import fit
    from dsr_export.fitting.request import FitOptions
    from dsr_export.progress import reporter
    from dsr_export.sources import find_source
    from dsr_export.storage.cache import StageCache

    request = ModelRequest(
        model=model,
        checkpoint=checkpoint,
        weights=weights,
        random_weights=random_weights,
        model_dir=model_dir,
        options=arguments,
    )
    folder = out or Path(f"{find_source(request).name}.registers")
    made = fit(request, FitOptions(out=folder, **options), StageCache.default(), reporter=reporter())  # type: ignore[arg-type]
    if made is None:  # one of several processes, whose first one answers
        return
    if as_json:
        answer_json(made)
        return
    answer("\n".join([made["headline"], *(f"  {detail}" for detail in made["details"])]))
    answer(f"next: {made['build']}")
