"""Opens the right runner for a model and a runtime; none of this needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dsr_export.backends.base import Runner
from dsr_export.backends.gpu import compute_capability
from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.errors import ExportError
from graphs.artifacts import Precision, TensorSpec
from graphs.emulate import emulate_bf16
from graphs.files import load_model
from graphs.taps import Tap, TappedModel, add_taps
from graphs.targets import Target, target

if TYPE_CHECKING:
    from dsr_export.bundle.manifest import BundleTarget
    from dsr_export.bundle.reader import Bundle

Runtime = Literal["auto", "onnxruntime", "tensorrt", "tensorrt-rtx"]
RTX_CAPABILITIES = ("8.0", "8.6", "8.9")
"""What a portable TensorRT-RTX engine runs on, beside 12.0 and later: not 8.7 (Orin), not 9.0."""


def typed_runner(model: Path, inputs: Sequence[TensorSpec], precision: Precision) -> Runner:
    """ONNX Runtime on a typed graph. Its CPU provider has no BF16 arithmetic, so that is emulated by rounding."""
    if precision == "bf16":
        emulated = emulate_bf16(load_model(model)).SerializeToString()
        return OnnxRuntimeRunner(emulated, inputs=inputs, optimize=False)
    return OnnxRuntimeRunner(model, inputs=inputs)


def tapped_runner(
    model: Path, inputs: Sequence[TensorSpec], precision: Precision, taps: Sequence[Tap]
) -> tuple[Runner, TappedModel]:
    """`typed_runner` on a copy in memory that also outputs samples at `taps`; nothing is written."""
    loaded = load_model(model, weights=precision == "bf16")
    tapped = add_taps(emulate_bf16(loaded) if precision == "bf16" else loaded, taps)
    return OnnxRuntimeRunner(
        tapped.model.SerializeToString(), inputs=inputs, optimize=precision != "bf16", weights=model.parent
    ), tapped


def bundle_runner(bundle: Bundle, runtime: Runtime) -> Runner:
    """A runner for `runtime`; `auto` takes an engine where a GPU can run it, else ONNX Runtime.

    Raises:
        ExportError: the bundle has no engine for the runtime, or there is no GPU to run it.
    """
    if runtime == "onnxruntime" or (runtime == "auto" and not has_runnable_engine(bundle)):
        return typed_runner(bundle.file("model.onnx"), bundle.manifest.input_specs(), bundle.manifest.precision)
    from dsr_export.backends.tensorrt_runner import TensorRTRunner

    engine = bundle_engine(bundle, runtime)
    plan = bundle.file(str(engine.engine))
    return TensorRTRunner(plan, backend=engine.backend, inputs=bundle.manifest.input_specs())


def has_runnable_engine(bundle: Bundle) -> bool:
    """Whether `auto` would run an engine here."""
    return bool(_engines(bundle, "auto"))


def runs_here(target: Target) -> bool:
    """Whether an engine of `target` fits the GPU at hand; False without one."""
    found = compute_capability()
    if found is None:
        return False
    if target.backend == "tensorrt_rtx":
        return found in RTX_CAPABILITIES or float(found) >= 12
    return target.compute_capability in (None, "current", found)


def bundle_engine(bundle: Bundle, runtime: Runtime) -> BundleTarget:
    """The engine that `runtime` runs; `auto` takes the first that the GPU at hand can run. ExportError without one."""
    engines = _engines(bundle, runtime)
    if not engines:
        raise ExportError(
            f"{bundle.path} holds no {runtime} engine", hint="build with --target rtx, or use --runtime onnxruntime"
        )
    return engines[0]


def _engines(bundle: Bundle, runtime: Runtime) -> list[BundleTarget]:
    wanted = None if runtime == "auto" else runtime.replace("-", "_")
    engines = [t for t in bundle.manifest.targets if t.engine is not None and wanted in (None, t.backend)]
    return [each for each in engines if wanted is not None or runs_here(target(each.name))]
