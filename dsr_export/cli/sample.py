"""`dsr-export sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dsr_export.cli.options.runtime import runtime_option
from dsr_export.cli.options.scale import Scale
from dsr_export.cli.options.trust import trust_option, trusted
from dsr_export.cli.process.streams import Command, answer
from dsr_export.limits import MOST_SEED, MOST_STEPS


@click.command("sample", cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--class", "label", type=click.IntRange(min=0), help="One class for all images. [default: each in turn]")
@click.option(
    "--prompt", "prompts", multiple=True, metavar="TEXT", help="Pipeline: what to draw; repeatable, a picture for each."
)
@click.option("--negative", metavar="TEXT", help="Pipeline: what not to draw.")
@click.option(
    "--count", type=click.IntRange(min=1, max=1024), help="Images in the grid. [default: 16, or 1 of each prompt]"
)
@click.option("--seed", type=click.IntRange(0, MOST_SEED), default=0, show_default=True)
@click.option(
    "--steps",
    type=click.IntRange(1, MOST_STEPS),
    help="Steps of a pipeline, or grid points of a sampler. [default: the model's]",
)
@click.option("--guidance", type=Scale(), help="Guidance scale; 1 for none. [default: the model's]")
@click.option(
    "--true-guidance",
    type=Scale(),
    help="Scale of --negative where the model takes guidance as an input, as FLUX does.",
)
@click.option(
    "--latents", type=click.Path(path_type=Path), metavar="FILE", help="Pipeline: also write every step's, as npz."
)
@runtime_option
@trust_option
@click.option("-o", "--output", type=click.Path(path_type=Path), default="samples.png", show_default=True)
def command(
    bundle: Path,
    label: int | None,
    prompts: tuple[str, ...],
    negative: str | None,
    count: int | None,
    seed: int,
    steps: int | None,
    guidance: float | None,
    true_guidance: float | None,
    latents: Path | None,
    runtime: Any,
    trust: Any,
    output: Path,
) -> None:
    """Draw a PNG grid of samples from BUNDLE, through its decoder where it holds one.

    The bundle of a whole pipeline takes prompts, or classes, and makes pictures of them. The same seed gives the same
    noise on every runtime.
    """
    from dsr_export.bundle.reader import Bundle
    from dsr_export.drawing.samples import draw_samples
    from dsr_export.images.grids import save_grid, save_pictures
    from dsr_export.pipelines.sampled import draw_pictures
    from dsr_export.progress import reporter
    from dsr_export.reports.written_files import bundle_and_keys, check_report_files
    from dsr_export.storage.output_target import check_target

    check_target(output)
    files = {"--output": output} if latents is None else {"--output": output, "--latents": latents}
    check_report_files(files, bundle_and_keys(bundle, trust))
    opened, shown = Bundle.open(bundle, trust=trusted(trust)), reporter()
    asked: dict[str, Any] = {"label": label, "count": count, "seed": seed, "steps": steps, "guidance": guidance}
    texts: dict[str, Any] = {
        "prompts": prompts,
        "negative": negative,
        "true_guidance": true_guidance,
        "latents": latents,
    }
    if opened.manifest.pipeline is not None:
        pictures = draw_pictures(opened, **asked, **texts, runtime=runtime, shown=shown)
        save_pictures(pictures, output)
        answer(f"{output}: {len(pictures)} images of {pictures.shape[1]}x{pictures.shape[2]}")
        return
    images = draw_samples(opened, **asked, **texts, runtime=runtime, shown=shown)
    save_grid(images, output)
    answer(f"{output}: {len(images)} images of {images.shape[2]}x{images.shape[3]}")
