"""Opens the right runner for a model and a runtime; none of this needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dsr_export.backends.base import Runner
from dsr_export.backends.engine_fit import EngineNeeds, Machine, fits_gpu, misfits, portable_to
from dsr_export.backends.gpu import compute_capability
from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.backends.vendor import installed_version
from dsr_export.bundle.manifest_parts import BundleTarget
from dsr_export.errors import ExportError
from graphs.artifacts import Precision, TensorSpec
from graphs.emulate import emulate_bf16
from graphs.files import load_model
from graphs.taps import Tap, TappedModel, add_taps
from graphs.targets import Target

if TYPE_CHECKING:
    from dsr_export.bundle.manifest import BundleTarget
    from dsr_export.bundle.reader import Bundle

Runtime = Literal["auto", "onnxruntime", "tensorrt", "tensorrt-rtx"]
_TARGETS = {"tensorrt": "trt10", "tensorrt-rtx": "rtx"}


def typed_runner(model: Path, inputs: Sequence[TensorSpec], precision: Precision) -> Runner:
    """ONNX Runtime on a typed graph. Its CPU provider has no BF16 arithmetic, so that is emulated by rounding.

    INT8 runs node by node, as written: fused integer kernels round differently from one processor to another.
    """
    if precision == "bf16":
        emulated = emulate_bf16(load_model(model)).SerializeToString()
        return OnnxRuntimeRunner(emulated, inputs=inputs, optimize=False)
    return OnnxRuntimeRunner(model, inputs=inputs, optimize=precision != "int8")


def fused_runner(model: Path, inputs: Sequence[TensorSpec], precision: Precision) -> Runner | None:
    """The kernels that users of the model get, where `typed_runner` keeps to the nodes as written; else None."""
    return OnnxRuntimeRunner(model, inputs=inputs) if precision == "int8" else None


def tapped_runner(
    model: Path, inputs: Sequence[TensorSpec], precision: Precision, taps: Sequence[Tap]
) -> tuple[Runner, TappedModel]:
    """`typed_runner` on a copy in memory that also outputs samples at `taps`; nothing is written."""
    loaded = load_model(model, weights=precision == "bf16")
    tapped = add_taps(emulate_bf16(loaded) if precision == "bf16" else loaded, taps)
    return OnnxRuntimeRunner(
        tapped.model.SerializeToString(),
        inputs=inputs,
        optimize=precision not in ("bf16", "int8"),
        weights=model.parent,
    ), tapped


def bundle_runner(bundle: Bundle, runtime: Runtime) -> Runner:
    """A runner for `runtime`; `auto` takes an engine where one is for the GPU at hand, else ONNX Runtime.

    Raises:
        ExportError: the bundle has no engine for the runtime, there is no GPU to run it, or the engine was built for
            another TensorRT, GPU or system; then with the command that rebuilds it.
    """
    engine = chosen_engine(bundle, runtime)
    if engine is None:
        return typed_runner(bundle.file("model.onnx"), bundle.manifest.input_specs(), bundle.manifest.precision)
    from dsr_export.backends.tensorrt_runner import TensorRTRunner

    plan, needs = bundle.file(str(engine.engine)), EngineNeeds.of_entry(engine, bundle=str(bundle.path))
    return TensorRTRunner(plan, backend=engine.backend, inputs=bundle.manifest.input_specs(), needs=needs)


def has_runnable_engine(bundle: Bundle) -> bool:
    """Whether `auto` would run an engine here."""
    return chosen_engine(bundle, "auto") is not None


def runs_here(target: Target) -> bool:
    """Whether an engine of `target` fits the GPU at hand; False without one."""
    found = compute_capability()
    if found is None:
        return False
    if target.backend == "tensorrt_rtx" and target.compute_capability is None:
        return portable_to(found)
    return target.compute_capability in (None, "current", found)


def chosen_engine(bundle: Bundle, runtime: Runtime) -> BundleTarget | None:
    """The engine to run: of those for the runtime (`auto`: for the GPU at hand), one that fits, or else the first,
    so that whoever opens it is told why it does not."""
    if runtime == "onnxruntime":
        return None
    wanted = None if runtime == "auto" else runtime.replace("-", "_")
    engines = [each for each in bundle.manifest.targets if each.engine is not None and wanted in (None, each.backend)]
    if wanted is None:
        found = compute_capability()
        engines = [each for each in engines if fits_gpu(EngineNeeds.of_entry(each), found)]
    if not engines and wanted is not None:
        raise ExportError(
            f"{bundle.path} holds no {runtime} engine",
            hint=f"dsr-export compile {bundle.path} --target {_TARGETS[runtime]}; or use --runtime onnxruntime",
        )
    fitting = [each for each in engines if not _misfits(each)]
    return next(iter([*fitting, *engines]), None)


def _misfits(engine: BundleTarget) -> list[str]:
    return misfits(EngineNeeds.of_entry(engine), Machine.here(installed_version(engine.backend)))
