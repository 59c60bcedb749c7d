"""`dsr-export evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dsr_export.cli.exit_codes import exit_unless
from dsr_export.cli.options.arguments import argument_options
from dsr_export.cli.options.executor import MOST_JOBS, executor_options
from dsr_export.cli.options.named_paths import Limits, NamedPath
from dsr_export.cli.options.pairs import each_once
from dsr_export.cli.options.runtime import runtime_option
from dsr_export.cli.options.scale import Scale
from dsr_export.cli.options.trust import trust_option, trusted
from dsr_export.cli.process.streams import WORDS, Command, answer, answer_json
from dsr_export.limits import MOST_SEED, MOST_STEPS

if TYPE_CHECKING:
    from dsr_export.evaluation.shares import Shares

MOST_PICTURES = 1_000_000


@click.command("evaluate", cls=Command)
@click.argument("bundle", metavar="BUNDLE|MODEL", type=click.Path(path_type=Path))
@click.option(
    "--methods",
    is_flag=True,
    help="Take a registered MODEL, and compare what can be done to its outlier tokens: none, mask, clip, nearest, "
    "recursive, and those with trained or inserted registers where --dsr names some.",
)
@click.option("--decoder", type=click.Path(path_type=Path), metavar="BUNDLE", help="Of --methods: pictures of latents.")
@click.option(
    "--roofline",
    metavar="DEVICE,...",
    help="Of --methods: what each costs in an FP16 engine, and its time on these devices, estimated.",
)
@click.option(
    "--reference",
    metavar="BUNDLE|pytorch",
    help="Draw the same pictures with another bundle, or with the PyTorch module, and compare.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Real pictures for distances: a folder, an npz of uint8 pictures, or one of `mu` and `sigma`. [default: "
    "packaged for digits]",
)
@click.option("--count", type=click.IntRange(1, MOST_PICTURES), default=256, show_default=True, help="Pictures.")
@click.option(
    "--metrics",
    metavar="NAME,...",
    help="fid, is, fd-dinov2, clip, lpips, psnr, ssim, class-accuracy. [default: psnr, ssim with a reference; for "
    "digits also fid, is, class-accuracy]",
)
@click.option(
    "--network",
    "networks",
    type=NamedPath(),
    multiple=True,
    callback=each_once,
    metavar="METRIC=PATH",
    help="Local weights of a metric's network: Inception's file or a transformers folder for fid, folders for clip and "
    "fd-dinov2, AlexNet's file for lpips; repeatable.",
)
@click.option("--seed", type=click.IntRange(0, MOST_SEED), default=0, show_default=True)
@click.option("--steps", type=click.IntRange(1, MOST_STEPS), help="As `sample` takes them. [default: the model's]")
@click.option("--guidance", type=Scale(), help="Guidance scale; 1 for none. [default: the model's]")
@click.option(
    "--prompts", type=click.Path(path_type=Path), metavar="FILE", help="Pipeline: one prompt a line; they start over."
)
@click.option(
    "--max",
    "most",
    type=Limits("max"),
    multiple=True,
    metavar="METRIC=BOUND",
    help="Fail above the bound; with a sign above the reference's figure plus it: --max fid=+0.5. Repeatable.",
)
@click.option("--min", "least", type=Limits("min"), multiple=True, metavar="METRIC=BOUND", help="Fail below the bound.")
@click.option("--shard", metavar="I/N", help="Measure one of N shares only, into the cache; then run without it.")
@click.option("--jobs", type=click.IntRange(1, MOST_JOBS), help="Processes that measure. [default: 1; Ray: its CPUs]")
@executor_options
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Of --reference pytorch and --methods.")
@click.option("--weights", metavar="NAME", help="Of --reference pytorch and --methods.")
@click.option("--random-weights", type=int, metavar="SEED", help="Of --reference pytorch and --methods.")
@click.option("--dsr", type=click.Path(path_type=Path), help="Of --reference pytorch and --methods.")
@argument_options
@runtime_option
@trust_option
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Also write a page with the pictures.")
@click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Also write the limits as tests.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Also write the JSON object.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, and nothing else.")
@click.pass_context
def command(context: click.Context, /, bundle: Path, as_json: bool, **given: Any) -> None:
    """Judge the pictures that BUNDLE draws: FID, Inception Score, CLIP score, LPIPS, PSNR, SSIM.

    Distances are to real pictures (--data), pairs are with a reference's pictures of the same seeds. Networks come
    from local files; nothing is downloaded. Every part is kept in the cache when it is measured, so that a run that
    was stopped goes on; --jobs, --executor and --shard spread the work. Exit code 3 where a limit fails.
    """
    from dsr_export.bundle.reader import Bundle
    from dsr_export.evaluation.evaluate import evaluate
    from dsr_export.evaluation.files import EvaluationFiles
    from dsr_export.evaluation.method_table import method_lines, methods_dict
    from dsr_export.evaluation.request import asked_for, check_no_methods, compared_methods, opened_reference
    from dsr_export.evaluation.wording import lines
    from dsr_export.progress import reporter
    from dsr_export.storage.cache import StageCache

    files = EvaluationFiles(html=given.pop("html"), junit=given.pop("junit"), output=given.pop("output"))
    if given["shard"] is None:  # else nothing is written
        files.check(bundle, given)
    trust = trusted(given.pop("trust"))
    shares = _shares(context, given)
    if given.pop("methods"):
        compared = compared_methods(str(bundle), given, StageCache.default(), reporter(), trust=trust)
        files.write_methods(compared)
        _answer(methods_dict(compared), method_lines(compared), as_json=as_json)
        return
    check_no_methods(given)
    opened = Bundle.open(bundle, trust=trust)
    asked, reference = asked_for(opened, given), opened_reference(opened, given, trust=trust)
    found = evaluate(opened, reference, asked, StageCache.default(), reporter(), shares=shares)
    if isinstance(found, list):
        said = f"shard {given['shard']} is measured; run the same command without --shard for the figures"
        _answer({"shard": given["shard"], "measured": True, "stages": found}, [said], as_json=as_json)
        return
    files.write(found)
    _answer(found.as_dict(), lines(found), as_json=as_json)
    exit_unless(found.passed)


def _shares(context: click.Context, given: dict[str, Any]) -> Shares | None:
    """None where this process measures everything. UsageError for options that do not go together."""
    executor, jobs = given.pop("executor"), given.pop("jobs")
    if executor.kind == "local" and jobs in (None, 1):
        return None
    option = "--executor" if executor.kind != "local" else "--jobs"
    for name in ("methods", "shard"):
        if given[name]:
            raise click.UsageError(f"{option} does not go with --{name}")
    from dsr_export.evaluation.shares import Shares

    return Shares(words=context.meta[WORDS], jobs=jobs, executor=executor)


def _answer(found: Any, said: list[str], *, as_json: bool) -> None:
    if as_json:
        answer_json(found)
    else:
        answer("\n".join(said))
