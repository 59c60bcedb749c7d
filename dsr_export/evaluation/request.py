"""From what the command line was given to what is evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsr_export.bundle.reader import Bundle
from dsr_export.bundle.signature_file import PublicKey
from dsr_export.config import ModelRequest
from dsr_export.declarations.share import Share
from dsr_export.engine_schedule.devices import named_devices
from dsr_export.errors import ExportError
from dsr_export.evaluation.drawers import Drawn
from dsr_export.evaluation.evaluate import DIGITS, Asked
from dsr_export.evaluation.gate import Limit
from dsr_export.evaluation.methods import MethodResult, compare_methods
from dsr_export.evaluation.metrics import METRICS, Metric, of_kind, parsed
from dsr_export.evaluation.references import PYTORCH, torch_reference
from dsr_export.pipelines.prompt_file import read_prompts
from dsr_export.progress import Reporter
from dsr_export.storage.cache import StageCache

if TYPE_CHECKING:
    from dsr_export.subject import Subject

OF_DIGITS = ("fid", "is", "class-accuracy")
_OF_PYTORCH = ("checkpoint", "weights", "random_weights", "dsr", "arguments")


def asked_for(bundle: Bundle, given: Mapping[str, Any]) -> Asked:
    """Raises ExportError for metrics, limits, shards and prompts that can't be read."""
    paired = given["reference"] is not None
    limits = [Limit.parse(side, *pair) for side, pairs in _limits(given) for pair in pairs]
    prompts = () if given["prompts"] is None else read_prompts(given["prompts"])
    drawn = Drawn(seed=given["seed"], steps=given["steps"], guidance=given["guidance"], prompts=prompts)
    return Asked(
        count=given["count"],
        metrics=_metrics(bundle, given["metrics"], paired=paired),
        drawn=drawn,
        networks=given["networks"],
        data=given["data"],
        limits=tuple(limits),
        shard=None if given["shard"] is None else Share.parse(given["shard"], option="--shard"),
        runtime=given["runtime"],
    )


def opened_reference(
    bundle: Bundle, given: Mapping[str, Any], *, trust: Sequence[PublicKey] = ()
) -> Bundle | Subject | None:
    """The reference that was named. ExportError where it can't be opened, or options go with another kind of it."""
    name = given["reference"]
    if name == PYTORCH:
        names = {key: given[key] for key in _OF_PYTORCH[:-1]}
        return torch_reference(bundle, ModelRequest(**names, options=given["arguments"]))
    if extra := [key for key in _OF_PYTORCH if given[key] not in (None, {})]:
        option = "--option" if extra[0] == "arguments" else f"--{extra[0].replace('_', '-')}"
        raise ExportError(f"{option} is for --reference {PYTORCH}", hint="leave it away")
    return None if name is None else Bundle.open(Path(name), trust=trust)


def compared_methods(
    model: str, given: Mapping[str, Any], cache: StageCache, shown: Reporter, *, trust: Sequence[PublicKey] = ()
) -> list[MethodResult]:
    """What `--methods` asks for. ExportError for options that go with bundles only, and as `compare_methods`."""
    if pairs := of_kind(parsed(given["metrics"] or ",".join(OF_DIGITS)), "pair"):
        raise ExportError(f"{pairs[0].title} does not go with --methods", hint="it is of pairs: leave it away")
    for name in ("reference", "shard", "prompts", "most", "least"):
        if given[name] not in (None, ()):
            option = {"most": "max", "least": "min"}.get(name, name)
            raise ExportError(f"--{option} does not go with --methods", hint="leave it away")
    if given["metrics"] is None and model not in DIGITS:
        raise ExportError(f"which figures of {model} are wanted is not said", hint=f"--metrics {','.join(METRICS)}")
    devices = [] if given["roofline"] is None else [each.strip() for each in given["roofline"].split(",")]
    named_devices(devices)  # before anything is drawn
    asked = Asked(
        count=given["count"],
        metrics=parsed(given["metrics"] or ",".join(OF_DIGITS)),
        drawn=Drawn(seed=given["seed"], steps=given["steps"], guidance=given["guidance"]),
        networks=given["networks"],
        data=given["data"],
        runtime=given["runtime"],
    )
    named = {key: given[key] for key in _OF_PYTORCH[:-1]}
    request = ModelRequest(model=model, **named, options=given["arguments"])
    decoder = None if given["decoder"] is None else Bundle.open(given["decoder"], trust=trust)
    return compare_methods(request, asked, cache, shown, decoder=decoder, devices=devices)


def check_no_methods(given: Mapping[str, Any]) -> None:
    """Raises ExportError for what goes with `--methods` only."""
    if given["decoder"] is not None:
        raise ExportError("--decoder goes with --methods", hint="a bundle holds its own: build it with --component")
    if given["roofline"] is not None:
        raise ExportError("--roofline goes with --methods", hint="of a bundle: dsr-export bench BUNDLE --roofline ...")


def _limits(given: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    return [("max", given["most"]), ("min", given["least"])]


def _metrics(bundle: Bundle, names: str | None, *, paired: bool) -> tuple[Metric, ...]:
    """Those asked for, or what needs nothing that is not there."""
    if names is not None:
        return parsed(names)
    chosen = ["psnr", "ssim"] if paired else []
    if bundle.manifest.model["name"] in DIGITS:
        chosen += OF_DIGITS
    if not chosen:
        hint = f"give --reference, or --metrics with what they need: {', '.join(METRICS)}"
        raise ExportError("no metric can be measured without a reference, data or a network", hint=hint)
    return parsed(",".join(chosen))
