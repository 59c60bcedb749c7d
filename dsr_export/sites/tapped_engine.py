"""What runs on a GPU, with taps: where it alone fails, it is searched itself. An engine is built once more for it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import onnx

from dsr_export.backends.base import Runner
from dsr_export.backends.opening import chosen_engine, cuda_runner
from dsr_export.backends.runtime_names import CUDA_RUNNER, Runtime
from dsr_export.bundle.manifest_parts import BundleTarget
from dsr_export.bundle.reader import MODEL, Bundle
from dsr_export.errors import ExportError, RunnerError
from dsr_export.storage.leftovers import scratch_folder
from graphs.files import load_model
from graphs.observe.taps import Tap, TappedModel, add_taps
from graphs.targets import target


def tapped_engine(bundle: Bundle, runtime: Runtime, taps: Sequence[Tap]) -> tuple[Runner, TappedModel]:
    """As `tapped_runner`. A tapped engine is fused less than the shipped one: what fusion breaks, it may not show.

    Raises:
        RunnerError: the bundle has no engine for `runtime` that runs here, or it can't be built here.
    """
    if runtime == CUDA_RUNNER:
        return _tapped_graph(bundle, taps)
    chosen = chosen_engine(bundle, runtime)
    if chosen is None:
        raise RunnerError(f"{bundle.path} holds no engine that runs here", hint="use --runtime onnxruntime")
    tapped = add_taps(load_model(bundle.file(bundle.engine_graph), weights=False), taps)
    try:
        return _opened(bundle, chosen, tapped), tapped
    except ExportError as error:  # of the builder or the machine: the files have been read by now
        raise RunnerError(error.message, hint=error.hint) from error


def _tapped_graph(bundle: Bundle, taps: Sequence[Tap]) -> tuple[Runner, TappedModel]:
    model, inputs = bundle.file(MODEL), bundle.manifest.inputs
    tapped = add_taps(load_model(model, weights=False), taps)
    return cuda_runner(tapped.model.SerializeToString(), inputs, weights=model.parent), tapped


def _opened(bundle: Bundle, chosen: BundleTarget, tapped: TappedModel) -> Runner:
    from dsr_export.backends.tensorrt.runner import TensorRTRunner

    plan = build_tapped(bundle, chosen.name, tapped)
    return TensorRTRunner(plan, backend=chosen.backend, inputs=bundle.manifest.inputs)


def build_tapped(bundle: Bundle, name: str, tapped: TappedModel) -> bytes:
    """The plan of the tapped graph for the target called `name`; works without a GPU where that target's does."""
    from dsr_export.backends.tensorrt.build import build_engine

    manifest = bundle.manifest
    with scratch_folder("taps") as folder:
        path = folder / MODEL
        onnx.save(tapped.model, path)
        for weights in [each for each in manifest.files if each.startswith(f"{bundle.engine_graph}.")]:
            shutil.copyfile(bundle.file(weights), folder / weights.rsplit("/", 1)[-1])  # links are refused, and rightly
        return bytes(build_engine(path, target(name), batch=manifest.batch, inputs=manifest.inputs).plan)
