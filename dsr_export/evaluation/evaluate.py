"""`evaluate`: draws pictures with a bundle and its reference, measures them, and holds the figures to limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from dsr_export.backends.runtime_names import Runtime
from dsr_export.bundle.reader import Bundle
from dsr_export.declarations.share import Share
from dsr_export.drawing.drawn import asked_sampler, fitting_sampler
from dsr_export.errors import ExportError
from dsr_export.evaluation.comparable import check_comparable
from dsr_export.evaluation.data import check_data, data_moments
from dsr_export.evaluation.distances import check_enough, fid_module
from dsr_export.evaluation.drawers import Drawer, Drawn, bundle_drawer, decoder_of, torch_drawer
from dsr_export.evaluation.gate import Limit, check_limits, rulings
from dsr_export.evaluation.measured import Measuring, measure, read_part
from dsr_export.evaluation.measured_with import measured_with
from dsr_export.evaluation.metrics import Metric, of_kind
from dsr_export.evaluation.moments import Moments
from dsr_export.evaluation.panel import Panel, open_panel
from dsr_export.evaluation.parts import parts_of
from dsr_export.evaluation.references import subject_digest
from dsr_export.evaluation.results import Evaluation
from dsr_export.evaluation.shares import Shares
from dsr_export.evaluation.summary import summarised
from dsr_export.progress import Reporter
from dsr_export.storage.cache import StageCache
from dsr_export.subject import Subject

DIGITS = ("digits", "digits-outliers", "digits-gated")
"""Models that the packaged reader and its data judge."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be evaluated. `networks` are files of metrics; `data` is what is packaged where it is None."""

    count: int
    metrics: tuple[Metric, ...]
    drawn: Drawn
    networks: Mapping[str, Path] = field(default_factory=dict)
    data: Path | None = None
    limits: tuple[Limit, ...] = ()
    shard: Share | None = None
    runtime: Runtime = "auto"


def evaluate(
    bundle: Bundle,
    reference: Bundle | Subject | None,
    asked: Asked,
    cache: StageCache,
    shown: Reporter,
    *,
    shares: Shares | None = None,
) -> Evaluation | list[str]:
    """Draws and measures. Where only a shard was asked for: the places of its parts in the cache.

    Other processes measure `shares` of the parts before.

    Raises:
        ExportError: a metric lacks what it needs, too few pictures for it, limits on what is not measured, a model
            that makes no pictures or can't run here.
    """
    paired = reference is not None
    if reference is not None:
        check_comparable(bundle, reference)
    check_asked(asked, paired=paired)
    panel, real = opened_networks(asked, str(bundle.manifest.model["name"]), cache, shown)
    parts = parts_of(asked.count)
    with _measuring(bundle, reference, asked, panel, shown) as measuring:
        if asked.shard is not None:
            done = measure(measuring, asked.shard.taken(parts), cache, shown)
            return [stage.path.relative_to(cache.root).as_posix() for stage in done]
        if shares is not None:
            shares.measure(measuring.key, parts, cache, shown)
        stages = measure(measuring, parts, cache, shown)
    measured = [read_part(stage) for stage in stages]
    with shown.stage("figures"):
        lines = tuple(summarised(metric, measured, real, paired=paired) for metric in asked.metrics)
    return Evaluation(
        bundle=bundle,
        reference=reference,
        asked=asked,
        lines=lines,
        rulings=rulings(asked.limits, lines),
        parts=measured,
    )


def opened_networks(asked: Asked, model: str, cache: StageCache, shown: Reporter) -> tuple[Panel, dict[str, Moments]]:
    """The networks of the metrics, and the data's moments by metric. ExportError as `evaluate`, before any drawing."""
    if asked.data is not None:
        if not of_kind(asked.metrics, "distribution"):
            raise ExportError("--data is for distances, and none is asked for", hint="add one: --metrics fid,...")
        check_data(asked.data)
    panel = open_panel(asked.metrics, asked.networks, digits=model in DIGITS)
    distributions = of_kind(asked.metrics, "distribution")
    for metric in distributions:
        check_enough(asked.count, panel.extractors[metric.name].width)
    return panel, _real(asked, panel, distributions, cache, shown)


def check_asked(asked: Asked, *, paired: bool) -> None:
    """Raises ExportError for metrics and limits that lack a reference or prompts, or without torchmetrics."""
    fid_module()
    check_limits(asked.limits, asked.metrics, paired=paired)
    for metric in of_kind(asked.metrics, "pair"):
        if not paired:
            raise ExportError(f"{metric.title} needs a reference", hint="give --reference OTHER.dsr, or pytorch")
    if "clip" in {metric.name for metric in asked.metrics} and not asked.drawn.prompts:
        raise ExportError("the CLIP score is of pictures and their prompts", hint="give --prompts FILE")


def _real(
    asked: Asked, panel: Panel, distributions: tuple[Metric, ...], cache: StageCache, shown: Reporter
) -> dict[str, Moments]:
    """The data's moments, for the metrics that are distances to it."""
    if not distributions:
        return {}
    extractors = {metric.name: panel.extractors[metric.name] for metric in distributions}
    if asked.data is not None:
        return data_moments(asked.data, extractors, cache, shown)
    from dsr_export.evaluation.features.digit_reader import PackagedReader

    found = {name: each.real for name, each in extractors.items() if isinstance(each, PackagedReader)}
    if missing := sorted(set(extractors) - set(found)):
        raise ExportError(f"{missing[0]} is a distance to data", hint="give --data a folder of pictures")
    return found


@contextmanager
def _measuring(
    bundle: Bundle, reference: Bundle | Subject | None, asked: Asked, panel: Panel, shown: Reporter
) -> Iterator[Measuring]:
    """Both sides opened."""
    with ExitStack() as opened:
        candidate = opened.enter_context(bundle_drawer(bundle, asked.drawn, runtime=asked.runtime, shown=shown))
        other = None
        if reference is not None:
            other = opened.enter_context(_reference_drawer(bundle, reference, asked, shown))
        yield Measuring(
            candidate=candidate,
            reference=other,
            drawn=asked.drawn,
            classes=int(bundle.manifest.model["num_classes"]),
            panel=panel,
            key=_key(bundle, reference, asked, panel),
        )


def _reference_drawer(
    bundle: Bundle, reference: Bundle | Subject, asked: Asked, shown: Reporter
) -> AbstractContextManager[Drawer]:
    """Draws as the bundle does. ExportError where the reference is sampled in another way: nothing is to compare."""
    if bundle.manifest.pipeline is not None:
        assert isinstance(reference, Bundle)  # a module has no pipeline, and is not comparable
        return bundle_drawer(reference, asked.drawn, runtime=asked.runtime, shown=shown)
    sampler = fitting_sampler(bundle, asked.drawn.steps, asked.drawn.guidance)
    drawn = replace(asked.drawn, steps=sampler.num_steps, guidance=sampler.guidance)
    if isinstance(reference, Bundle):
        own = fitting_sampler(reference, drawn.steps, drawn.guidance)
        made: AbstractContextManager[Drawer] = bundle_drawer(reference, drawn, runtime=asked.runtime, shown=shown)
    else:
        assert reference.sampler is not None  # it has the bundle's configuration
        own = asked_sampler(reference.sampler, drawn.steps, drawn.guidance)
        made = torch_drawer(reference, drawn, decoder=decoder_of(bundle), runtime=asked.runtime)
    if own != sampler:
        apart = next(name for name, value in asdict(sampler).items() if getattr(own, name) != value)
        raise ExportError(
            f"the reference is sampled with {apart} {getattr(own, apart)}, and the bundle with "
            f"{getattr(sampler, apart)}",
            hint="compare bundles of one model, with the same --steps and --guidance",
        )
    return made


def _key(bundle: Bundle, reference: Bundle | Subject | None, asked: Asked, panel: Panel) -> dict[str, Any]:
    """Everything that a part's figures depend on, but which part it is."""
    other = None
    if reference is not None:
        other = reference.manifest.digest if isinstance(reference, Bundle) else subject_digest(reference)
    return {"bundle": bundle.manifest.digest, "reference": other, **drawn_key(asked, panel)}


def drawn_key(asked: Asked, panel: Panel) -> dict[str, Any]:
    """What figures of any model depend on."""
    drawn = asked.drawn
    return {
        **measured_with(),
        "runtime": asked.runtime,
        "drawn": [drawn.seed, drawn.steps, drawn.guidance, list(drawn.prompts)],
        "metrics": list(panel.names),
        "networks": panel.digests,
    }
