"""`dsr-export bench`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dsr_export.cli.options.arguments import argument_options
from dsr_export.cli.options.named import Named
from dsr_export.cli.process.streams import Command, answer, answer_json
from dsr_export.limits import MOST_BATCH, MOST_REPEATS, MOST_THREADS

if TYPE_CHECKING:
    from dsr_export.config import ModelRequest


@click.command("bench", cls=Command)
@click.argument("what", nargs=-1)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Weights of a registered model.")
@click.option("--weights", metavar="NAME", help="Which of a checkpoint's weights: `ema`, `model`, or an entry's name.")
@click.option("--random-weights", type=int, metavar="SEED", help="Seeded random weights of a registered model.")
@click.option("--dsr", type=click.Path(path_type=Path), help="TOML file with the model's DSR spec.")
@argument_options
@click.option("--batch", type=click.IntRange(1, MOST_BATCH), default=2, show_default=True)
@click.option("--rounds", type=click.IntRange(3, MOST_REPEATS), default=30, show_default=True, help="Timed rounds.")
@click.option(
    "--warmup", type=click.IntRange(0, MOST_REPEATS), default=3, show_default=True, help="Rounds not counted."
)
@click.option(
    "--runtime",
    type=Named("onnxruntime", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx"),
    default="onnxruntime",
    show_default=True,
    help="What to time: graphs on the CPU or on the GPU, or the engines of bundles.",
)
@click.option("--threads", type=click.IntRange(1, MOST_THREADS), help="ONNX Runtime threads. [default: all cores]")
@click.option(
    "--roofline",
    metavar="DEVICE,...",
    help="Run nothing; estimate the times of engines on these devices: orin-agx, orin-nx, thor, rtx4060, rtx4090, "
    "rtx5090, l4, h100-sxm.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, and nothing else.")
def command(
    what: tuple[str, ...],
    checkpoint: Path | None,
    weights: str | None,
    random_weights: int | None,
    dsr: Path | None,
    arguments: dict[str, bool | int | float | str],
    batch: int,
    rounds: int,
    warmup: int,
    runtime: Any,
    threads: int | None,
    roofline: str | None,
    as_json: bool,
) -> None:
    """Time graphs or engines side by side: several bundles or ONNX files, or the variants of one model.

    A model is timed as the exporter's raw trace, as our graph without run-time DSR, and as our graph with it. Ratios
    are to the first, within one round.

    On a GPU every model is timed from the host's arrays to the host's and within the device, engines in the stream and
    as a CUDA graph, beside the estimate that --roofline makes for this GPU. A model named beside bundles is timed in
    PyTorch, eager and compiled, and an ONNX file in ONNX Runtime's CUDA kernels.
    """
    from dsr_export.benchmark.contestants import bench
    from dsr_export.cli.printing.bench import bench_lines
    from dsr_export.config import ModelRequest
    from dsr_export.progress import reporter

    request = ModelRequest(
        checkpoint=checkpoint, weights=weights, random_weights=random_weights, dsr=dsr, options=arguments
    )
    if roofline is not None:
        _estimate(what, request, [name.strip() for name in roofline.split(",")], batch=batch, as_json=as_json)
        return
    given: dict[str, Any] = {"batch": batch, "rounds": rounds, "warmup": warmup, "threads": threads}
    found = bench(what, request, **given, runtime=runtime, reporter=reporter())
    if as_json:
        answer_json({"batch": batch, "rounds": rounds, "runtime": runtime, **found})
        return
    for line in bench_lines(found):
        answer(line)


def _estimate(what: tuple[str, ...], request: ModelRequest, devices: list[str], *, batch: int, as_json: bool) -> None:
    from dsr_export.benchmark.estimates import estimated
    from dsr_export.progress import reporter

    rows = estimated(what, request, devices, batch=batch, reporter=reporter())
    if as_json:
        answer_json({"estimates": rows})
        return
    answer("estimates, not measurements: ms in a stream, and as a CUDA graph; ratios to the first and to the row above")
    for row in rows:
        size = row["moved_bytes"] / 1e6
        answer(f"{row['name']}: {row['launches']} launches, {size:.1f} MB at batch {row['batch']}")
        for device, each in row["devices"].items():
            stream, graph = (_times(each, key) for key in ("stream", "graph"))
            answer(f"  {device:<10} {stream}   {graph}   memory is the limit of {each['memory_share']:.0%}")
        for device, reason in row["not_estimated"].items():
            answer(f"  {device:<10} no estimate: {reason}")


def _times(each: Mapping[str, Any], key: str) -> str:
    ratios = (each[f"{key}_{side}"] for side in ("ratio", "step"))
    return " ".join([f"{each[f'{key}_ms']:8.3f} ms", *("     -" if r is None else f"{r:.3f}x" for r in ratios)])
