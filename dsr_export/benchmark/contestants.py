"""What `dsr-export bench` may be given, turned into contestants with inputs that fit them all."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dsr_export.backends.runtime_names import Runtime
from dsr_export.benchmark.gpu_race import GpuContestant
from dsr_export.benchmark.on_gpu import bench_on_gpu
from dsr_export.benchmark.race import Contestant, race
from dsr_export.bundle.reader import Bundle
from dsr_export.config import ModelRequest
from dsr_export.errors import ExportError
from dsr_export.progress import Reporter
from dsr_export.storage.leftovers import scratch_folder
from graphs.artifacts import TensorSpec
from graphs.files import graph_inputs
from graphs.foreign.opened import read_runnable
from graphs.precisions import PRECISIONS

if TYPE_CHECKING:
    from dsr_export.subject import Subject

Array = npt.NDArray[Any]


def bench(
    what: Sequence[str],
    request: ModelRequest,
    *,
    batch: int,
    rounds: int,
    warmup: int,
    threads: int | None,
    runtime: Runtime = "onnxruntime",
    reporter: Reporter,
) -> dict[str, Any]:
    """`timings` of the bundles and ONNX files in `what`, or of the variants of the one model it names; on a GPU more,
    see `bench_on_gpu`, and a model beside bundles is timed in PyTorch itself.

    Raises:
        ExportError: graphs with different inputs, or something that is neither; or a runtime that can't run here.
    """
    with scratch_folder("bench") as scratch:
        files = [Path(each) for each in what if _is_graph(each)]
        models = [each for each in what if not _is_graph(each)]
        if files and models and runtime == "onnxruntime":
            hint = "name one kind, or give the --runtime of a GPU: there PyTorch itself is timed beside them"
            raise ExportError("bundles and ONNX files are not compared with models on the CPU", hint=hint)
        with reporter.stage("prepare"):
            named = zip(_names(files), files, strict=True)
            contestants = [_contestant(*each) for each in named] or _variants(what, request, scratch)
        given = _feeds(contestants, batch)
        if runtime != "onnxruntime":
            asked: dict[str, Any] = {"batch": batch, "rounds": rounds, "warmup": warmup}
            eager = _eager(models, request, contestants) if files and models else []
            return bench_on_gpu(contestants, runtime, given, **asked, beside=eager, reporter=reporter)
        with reporter.stage("bench") as bar:
            timings = race(contestants, given, rounds=rounds, warmup=warmup, threads=threads, progress=bar)
    return {"timings": [dataclasses.asdict(timing) for timing in timings]}


def _is_graph(what: str) -> bool:
    return what.lower().endswith(".onnx") or Path(what).is_dir()


def _names(files: Sequence[Path]) -> list[str]:
    """The files' own; of those that share one, their paths; of a path that is given twice, with a number."""
    own = Counter(path.name for path in files)
    names = [path.name if own[path.name] == 1 else str(path) for path in files]
    return [name if names.count(name) == 1 else f"{name} #{names[: i + 1].count(name)}" for i, name in enumerate(names)]


def _contestant(name: str, path: Path) -> Contestant:
    if path.suffix.lower() == ".onnx":
        return Contestant(name, path, tuple(graph_inputs(read_runnable(path))))
    bundle = Bundle.open(path)
    return Contestant(name, bundle.file(bundle.runtime_graph()), bundle.manifest.inputs, bundle)


def _variants(what: Sequence[str], request: ModelRequest, folder: Path) -> list[Contestant]:
    from dsr_export.benchmark.variants import as_run, model_variants

    raw, *ours = model_variants(asked_model(what, request), folder)
    return [raw, *(as_run(each, folder) for each in ours)]


def _eager(models: Sequence[str], request: ModelRequest, contestants: Sequence[Contestant]) -> list[GpuContestant]:
    """PyTorch itself, in half precision unless no bundle beside it is narrower than FP32."""
    from dsr_export.benchmark.torch_on_gpu import torch_contestants

    bundles = [each.bundle for each in contestants]
    wide = [each is not None and not PRECISIONS[each.manifest.precision].narrow for each in bundles]
    subject = asked_model(models, request)
    if {spec.name for spec in subject.inputs} != {spec.name for spec in contestants[0].inputs}:
        raise ExportError(f"{models[0]} and {contestants[0].name} take different inputs")
    return torch_contestants(models[0], subject, half=not all(wide))


def asked_model(what: Sequence[str], request: ModelRequest) -> Subject:
    """The one model that is named. Raises ExportError where several are, or where it is no PyTorch module."""
    from dsr_export.sources import find_source
    from dsr_export.subject import require_module

    if len(what) > 1:
        raise ExportError("variants are made of one model at a time", hint="name one model, or several bundles")
    asked = dataclasses.replace(request, model=what[0]) if what else request
    return require_module(find_source(asked).load())


def _feeds(contestants: Sequence[Contestant], batch: int) -> dict[str, Array]:
    """Seeded inputs for all: normal floats, and ones for labels (any model has a class 1)."""
    specs = contestants[0].inputs
    for each in contestants[1:]:
        if {(s.name, s.dtype, s.shape[1:]) for s in each.inputs} != {(s.name, s.dtype, s.shape[1:]) for s in specs}:
            raise ExportError(f"{each.name} and {contestants[0].name} take different inputs")
    return feeds(specs, batch)


def feeds(specs: Sequence[TensorSpec], batch: int) -> dict[str, Array]:
    """Seeded inputs of a model: normal floats, and ones for labels."""
    rng = np.random.default_rng(0)
    return {spec.name: _values(rng, spec, batch) for spec in specs}


def _values(rng: np.random.Generator, spec: TensorSpec, batch: int) -> Array:
    if np.issubdtype(np.dtype(spec.dtype), np.integer):
        return np.ones(spec.with_batch(batch), spec.dtype)
    return rng.standard_normal(spec.with_batch(batch)).astype(spec.dtype)
