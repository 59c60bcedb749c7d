"""A new engine for a built bundle, made from its typed graph on the machine at hand. Needs no torch."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dsr_export.backends.engines_here import NOT_RUN
from dsr_export.backends.gpu import compute_capability
from dsr_export.backends.installation import check_buildable
from dsr_export.backends.opening import new_engine_runner, runs_here
from dsr_export.bundle.destination import absolute, check_destination
from dsr_export.bundle.reader import Bundle
from dsr_export.bundle.signature_file import PublicKey
from dsr_export.bundle.writer import write_bundle
from dsr_export.errors import ExportError
from dsr_export.parity.checks.fused_step import check_step
from dsr_export.parity.checks.table import ParityReport, check_parity
from dsr_export.parity.golden.reader import read_golden
from dsr_export.parity.golden.vectors import fitted_sampler, image_batch
from dsr_export.parity.tolerances import Tolerance
from dsr_export.progress import Reporter, Silent
from dsr_export.recompiling.new_contents import Compiled, CompiledStep, contents_with_component, contents_with_engine
from dsr_export.storage.canonical import canonical_digest
from dsr_export.storage.locks import exclusive
from dsr_export.storage.made_with import source_digest, tool_versions
from dsr_export.verification.runtime_checks import golden_sampler, step_candidate
from graphs.sampling.fused_step import step_inputs
from graphs.target_precisions import NEEDS, check_precision
from graphs.targets import Target, check_model, target

if TYPE_CHECKING:
    from dsr_export.backends.tensorrt.build import Engine


@dataclass(frozen=True, kw_only=True)
class CompileRequest:
    """The engine to add to `bundle`. `component` compiles that component and leaves the bundle's own model alone.

    `keep_if_faster` is a bundle of the same model in a wider precision: it is written, with an engine of its own, where
    that of `bundle` is not faster on the GPU at hand.

    `out` is the folder to write, which may be the bundle itself; by default a new one, `./NAME-TARGET.dsr`. With
    `trust`, one of these keys must have signed the bundle; the new one has no signature, being another.
    """

    bundle: Path
    target: str
    out: Path | None = None
    component: str | None = None
    keep_if_faster: Path | None = None
    force: bool = False
    trust: tuple[PublicKey, ...] = ()

    def destination(self) -> Path:
        if self.out is not None:
            return self.out
        role = f"-{self.component}" if self.component else ""
        name = self.bundle.resolve().name.removesuffix(".dsr")  # not the model's: of two bundles of it, both stay
        return Path(f"{name}{role}-{self.target.replace(':', '-')}.dsr")


def recompile(request: CompileRequest, *, reporter: Reporter | None = None) -> Bundle:
    """Writes the bundle with the engine added, or replaced; everything else in it stays as it is.

    Where a GPU can run the engine, the golden vectors are checked through it, and the verdict is in the report of the
    new bundle, which is written even when it failed. Elsewhere the report says that the engine was not run.

    Raises:
        ExportError: a missing package or GPU, a damaged bundle, an op that the target lacks, a failed build, or an
            output folder that is not ours.
    """
    say, where, out = reporter or Silent(), target(request.target), request.destination()
    _check_apart(request.bundle, out)
    with say.stage("hashes"):
        bundle = Bundle.open(request.bundle, trust=request.trust)
        wider = None if request.keep_if_faster is None else Bundle.open(request.keep_if_faster, trust=request.trust)
    model = bundle.component(request.component) if request.component else bundle
    asked = (model, *([] if wider is None else [wider]))
    _check_target(where, asked, request.bundle)
    for each in asked:
        check_model(each.file(each.engine_graph), where)  # before the build: an unsupported op should not cost minutes
    if wider is not None:
        _check_choice(request, bundle, wider, where)
    key = _key(bundle, request, wider)
    with exclusive(out):
        if check_destination(out, key, request.force) == "same":
            say.note(f"{out} is up to date")
            return Bundle.open(out)
        model, compiled = _chosen(model, wider, where, key, say)
        manifest, contents = contents_with_engine(model, compiled)
        if request.component:
            manifest, contents = contents_with_component(bundle, request.component, manifest, contents, compiled)
        made = Bundle.open(write_bundle(out, manifest, contents, force=request.force))
    if bundle.signature is not None:
        say.note(f"{out} is another bundle than the signed one, and has no signature: dsr-export sign {out} --key KEY")
    return made


def _check_target(where: Target, asked: Sequence[Bundle], path: Path) -> None:
    """What no installation changes comes first: nobody is to install a package for what its devices lack."""
    if where.backend == "onnxruntime":
        raise ExportError(
            f"target '{where.name}' runs the ONNX graph itself and has no engine", hint=_without_engine(asked, path)
        )
    for each in asked:
        check_precision(where, each.manifest.precision, compute_capability())
    check_buildable(where)


def _without_engine(asked: Sequence[Bundle], path: Path) -> str:
    """What can be done there with a bundle: with some precisions no more than a check of its numbers."""
    command = f"dsr-export verify {shlex.quote(str(path))} --runtime onnxruntime"
    formats = [NEEDS[each.manifest.precision] for each in asked]
    lacking = next((each.format for each in formats if not each.on_cpu), None)
    if lacking is None:
        return f"the bundle runs there as it is: {command}"
    return f"it has no kernels for {lacking}, and its numbers are checked there by emulation: {command}"


def _check_choice(request: CompileRequest, bundle: Bundle, wider: Bundle, where: Target) -> None:
    from dsr_export.recompiling.faster import check_comparable

    if request.component:
        raise ExportError("--keep-if-faster chooses between whole bundles", hint="leave --component out")
    check_comparable(bundle, wider, where)


def _chosen(model: Bundle, wider: Bundle | None, where: Target, key: str, say: Reporter) -> tuple[Bundle, Compiled]:
    """The bundle to write, and the engine to add to it."""
    mine = model, _compile(model, where, key, say)
    if wider is None:
        return mine
    from dsr_export.recompiling.faster import choose

    return choose(mine, (wider, _compile(wider, where, key, say)), where, say)


def _check_apart(bundle: Path, out: Path) -> None:
    """The bundle itself may be replaced; a folder around it would take it along, and one inside would spoil it."""
    source, place = bundle.resolve(), absolute(out).resolve()
    if source != place and (source.is_relative_to(place) or place.is_relative_to(source)):
        raise ExportError(f"{out} and the bundle {bundle} lie one in the other", hint="give another --out")


def _key(bundle: Bundle, request: CompileRequest, wider: Bundle | None = None) -> str:
    """Digest of everything the new bundle depends on: equal keys mean that there is nothing to do."""
    asked = {"of": bundle.manifest.digest, "target": request.target, "component": request.component}
    if wider is not None:
        asked["keep_if_faster"] = wider.manifest.digest
    made = {"tools": tool_versions(), "source": source_digest(), "gpu": compute_capability()}
    return canonical_digest({"compile": asked, **made})


def _compile(model: Bundle, where: Target, key: str, say: Reporter) -> Compiled:
    from dsr_export.backends.tensorrt.build import build_engine

    began, manifest = time.monotonic(), model.manifest
    with say.stage(f"engine ({where.name})"):
        engine = build_engine(model.file(model.engine_graph), where, batch=manifest.batch, inputs=manifest.inputs)
    step = _compile_step(model, where, say)
    seconds = time.monotonic() - began
    if runs_here(where):
        parity, reason = _judge(model, where, engine, say), None
        step_parity = None if step is None else _judge_step(model, where, step, say)
    else:
        parity, reason, step_parity = None, NOT_RUN, None
        say.note(f"the engine for '{where.name}' was built and not run: {reason}; verify the bundle on the device")
    fused = None if step is None else CompiledStep(engine=step, parity=step_parity)
    return Compiled(target=where, engine=engine, step=fused, key=key, seconds=seconds, parity=parity, not_run=reason)


def _compile_step(model: Bundle, where: Target, say: Reporter) -> Engine | None:
    """Of the graph that holds a whole step of the sampler, in a bundle that has one."""
    from dsr_export.backends.tensorrt.build import build_engine

    graph, sampler = model.engine_step_graph, model.manifest.sampler_spec()
    if graph is None or sampler is None:
        return None
    batch = model.manifest.batch_range()
    images, inputs = image_batch(batch, fitted_sampler(sampler, batch)), step_inputs(model.manifest.input_specs())
    with say.stage(f"engine of a step ({where.name})"):
        return build_engine(model.file(graph), where, batch=images, inputs=inputs)


def _judge(model: Bundle, where: Target, engine: Engine, say: Reporter) -> ParityReport:
    """The golden vectors through the new engine, before it is sealed into anything."""
    golden = read_golden(model)
    tolerance = Tolerance.from_dict(model.manifest.tolerances)
    runner = new_engine_runner(bytes(engine.plan), where, engine.facts, model.manifest.inputs)
    with say.stage(f"parity ({where.name})") as bar, runner:
        return check_parity(runner, golden, golden_sampler(model, golden), tolerance, bar)


def _judge_step(model: Bundle, where: Target, engine: Engine, say: Reporter) -> ParityReport:
    """The same, through an engine that holds a whole step of the sampler."""
    inputs = step_inputs(model.manifest.input_specs())
    runner = new_engine_runner(bytes(engine.plan), where, engine.facts, inputs)
    candidate = step_candidate(model, runner, read_golden(model))
    with say.stage(f"parity of a step ({where.name})") as bar, runner:
        return check_step(candidate, bar)
