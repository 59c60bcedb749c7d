"""`dsr-export sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dsr_export.cli.options.runtime import runtime_option
from dsr_export.cli.options.trust import trust_option, trusted
from dsr_export.cli.process.streams import Command, answer
from dsr_export.limits import MOST_SEED, MOST_STEPS


@click.command("sample", cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--class", "label", type=click.IntRange(min=0), help="One class for all images. [default: each in turn]")
@click.option(
    "--count", type=click.IntRange(min=1, max=1024), default=16, show_default=True, help="Images in the grid."
)
@click.option("--seed", type=click.IntRange(0, MOST_SEED), default=0, show_default=True)
@click.option("--steps", type=click.IntRange(2, MOST_STEPS), help="Grid points of the sampler. [default: the model's]")
@click.option("--guidance", type=float, help="Guidance scale; 1 for none. [default: the model's]")
@runtime_option
@trust_option
@click.option("-o", "--output", type=click.Path(path_type=Path), default="samples.png", show_default=True)
def command(
    bundle: Path,
    label: int | None,
    count: int,
    seed: int,
    steps: int | None,
    guidance: float | None,
    runtime: Any,
    trust: Any,
    output: Path,
) -> None:
    """Draw a PNG grid of samples from BUNDLE, through its decoder where it holds one.

    The same seed gives the same noise on every runtime.
    """
    from dsr_export.bundle.reader import Bundle
    from dsr_export.drawing.decoding import decode
    from dsr_export.drawing.drawn import draw
    from dsr_export.images.grids import save_grid
    from dsr_export.progress import reporter
    from dsr_export.storage.output_target import check_target

    check_target(output)
    opened, shown = Bundle.open(bundle, trust=trusted(trust)), reporter()
    with shown.stage("sample") as bar:
        asked: dict[str, Any] = {"label": label, "count": count, "seed": seed, "steps": steps, "guidance": guidance}
        images = draw(opened, **asked, runtime=runtime, progress=bar, say=shown.note)
    if "decoder" in opened.components:
        with shown.stage("decode") as bar:
            images = decode(opened, images, runtime=runtime, progress=bar, say=shown.note)
    save_grid(images, output)
    answer(f"{output}: {count} images of {images.shape[2]}x{images.shape[3]}")
