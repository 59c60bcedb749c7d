"""Opens the right runner for a model and a runtime; none of this needs torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dsr_export.backends.base import Runner
from dsr_export.backends.gpu import compute_capability
from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.backends.runtime_names import CUDA_RUNNER, GRAPH_RUNTIMES, Runtime
from dsr_export.backends.tensorrt.engine_fit import EngineNeeds, Machine, fits_gpu, misfits, portable_to
from dsr_export.backends.tensorrt.vendor import installed_version
from dsr_export.bundle.engines import engine_entry
from dsr_export.bundle.manifest_parts import BundleTarget
from dsr_export.bundle.paths import MODEL, STEP
from dsr_export.errors import ExportError, RunnerError
from graphs.artifacts import TensorSpec
from graphs.files import load_model
from graphs.mixed_precision.emulate import emulate_low
from graphs.mixed_precision.lone_rows import pad_lone_rows
from graphs.observe.taps import Tap, TappedModel, add_taps
from graphs.precisions import PRECISIONS, Precision
from graphs.quantize.emulate_codes import emulate_codes
from graphs.sampling.fused_step import step_inputs
from graphs.target_precisions import lacks
from graphs.targets import TARGETS, Target

if TYPE_CHECKING:
    import onnx

    from dsr_export.backends.cuda.replay import Graphs
    from dsr_export.bundle.manifest import BundleTarget
    from dsr_export.bundle.reader import Bundle

Say = Callable[[str], None]
"""Is told what is worth knowing of a runner that is opened."""
_TARGETS = {"tensorrt": ("trt10", "trt11"), "tensorrt-rtx": ("rtx", "rtx:current")}
"""Those that an engine for each runtime may be built for, the most usual first."""


def typed_runner(model: Path, inputs: Sequence[TensorSpec], precision: Precision) -> Runner:
    """ONNX Runtime on a typed graph, with every half tensor rounded where it is made: the witness of all verdicts.

    Its CPU kernels would keep FP32 from node to node (see `graphs.mixed_precision.emulate`). A graph with low types
    runs node by node, as written: fusion would skip roundings, and fused integer kernels differ between processors.
    """
    if not PRECISIONS[precision].narrow:
        return OnnxRuntimeRunner(model, inputs=inputs)
    return _as_written(_emulated(load_model(model, weights=False), model.parent), model.parent, inputs, precision)


def fused_runner(model: Path, inputs: Sequence[TensorSpec], precision: Precision) -> Runner | None:
    """The kernels that users of ONNX Runtime get, where `typed_runner` takes others and there are any; else None.

    They keep FP32 between the nodes of a half graph. An engine rounds at least where it writes a tensor to memory: the
    truth lies between the two.
    """
    return OnnxRuntimeRunner(model, inputs=inputs) if PRECISIONS[precision].fused else None


def tapped_runner(
    model: Path, inputs: Sequence[TensorSpec], precision: Precision, taps: Sequence[Tap]
) -> tuple[Runner, TappedModel]:
    """`typed_runner` on a copy in memory that also outputs samples at `taps`; nothing is written."""
    loaded = load_model(model, weights=False)
    narrow = PRECISIONS[precision].narrow
    tapped = add_taps(_emulated(loaded, model.parent) if narrow else loaded, taps)
    if narrow:
        return _as_written(tapped.model, model.parent, inputs, precision), tapped
    return OnnxRuntimeRunner(tapped.model.SerializeToString(), inputs=inputs, weights=model.parent), tapped


def _emulated(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Without what the CPU has no kernels for: FP4, then half types."""
    try:
        return emulate_low(emulate_codes(model, folder))
    except ExportError as error:  # of a graph that was read, and that nobody can run as it is meant
        raise RunnerError(error.message, hint=error.hint) from error


def _as_written(
    model: onnx.ModelProto, weights: Path, inputs: Sequence[TensorSpec], precision: Precision
) -> OnnxRuntimeRunner:
    """Node by node; where it is quantised without folding constants, which would leave no integers."""
    optimize: Literal["constants", False] = False if PRECISIONS[precision].quantized else "constants"
    as_written = pad_lone_rows(model).SerializeToString()
    return OnnxRuntimeRunner(as_written, inputs=inputs, optimize=optimize, weights=weights)


def cuda_runner(
    model: Path | bytes,
    inputs: Sequence[TensorSpec],
    *,
    weights: Path | None = None,
    graphs: Graphs = "auto",
    say: Say | None = None,
) -> Runner:
    """ONNX Runtime's kernels for the GPU; see `OnnxRuntimeCudaRunner`."""
    from dsr_export.backends.onnxruntime_cuda import OnnxRuntimeCudaRunner

    return OnnxRuntimeCudaRunner(model, inputs=inputs, weights=weights, graphs=graphs, say=say)


def bundle_runner(bundle: Bundle, runtime: Runtime, say: Say | None = None, *, step: bool = False) -> Runner:
    """A runner for `runtime`; `auto` takes an engine where one is for the GPU at hand, else ONNX Runtime on the CPU.

    Of the model, or of the graphs and engines that hold a whole `step` of its sampler. In a low precision the CPU runs
    the portable graph, node by node: there it is the witness of the numbers.

    Raises:
        ExportError: the bundle has no engine for the runtime, there is no GPU to run it, or the engine was built for
            another TensorRT, GPU or system; then with the command that rebuilds it.
    """
    specs, folder = bundle.manifest.input_specs(), ""
    if step:
        specs, folder = step_inputs(specs), STEP
    if runtime == CUDA_RUNNER:
        return cuda_runner(bundle.file(bundle.runtime_graph(folder)), specs, say=say)
    engine = chosen_engine(bundle, runtime)
    if engine is None:
        precision = bundle.manifest.precision
        graph = f"{folder}{MODEL}" if PRECISIONS[precision].narrow else bundle.runtime_graph(folder)
        return typed_runner(bundle.file(graph), specs, precision)
    return engine_runner(bundle, engine, say=say, step=step)


def engine_runner(
    bundle: Bundle, engine: BundleTarget, *, say: Say | None = None, graphs: Graphs = "auto", step: bool = False
) -> Runner:
    """A runner of one of the bundle's engines, or of the one that holds a whole `step`; raises as `bundle_runner`."""
    from dsr_export.backends.tensorrt.runner import TensorRTRunner
    from dsr_export.backends.tensorrt.runtime_cache import cache_file

    file, inputs = str(engine.engine), bundle.manifest.input_specs()
    if step:
        file, inputs = f"{STEP}{file}", step_inputs(inputs)
    needs = EngineNeeds.of_entry(engine, bundle=str(bundle.path), precision=bundle.manifest.precision)
    cache = cache_file(bundle, file)
    plan = bundle.file(file)
    return TensorRTRunner(plan, backend=engine.backend, inputs=inputs, needs=needs, cache=cache, graphs=graphs, say=say)


def new_engine_runner(
    plan: Path | bytes, target: Target, facts: Mapping[str, Any], inputs: Sequence[TensorSpec], **options: Any
) -> Runner:
    """A runner of an engine that was just built for `target` with these `facts`, and lies in no bundle yet.

    `options` are `TensorRTRunner`'s; raises as it does.
    """
    from dsr_export.backends.tensorrt.runner import TensorRTRunner

    needs = EngineNeeds.of_entry(engine_entry(target, facts))
    return TensorRTRunner(plan, backend=target.backend, inputs=inputs, needs=needs, **options)


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
    if runtime in GRAPH_RUNTIMES:
        return None
    wanted = None if runtime == "auto" else runtime.replace("-", "_")
    engines = [each for each in bundle.manifest.targets if each.engine is not None and wanted in (None, each.backend)]
    if wanted is None:
        found = compute_capability()
        engines = [each for each in engines if fits_gpu(EngineNeeds.of_entry(each), found)]
    if not engines and wanted is not None:
        raise ExportError(
            f"{bundle.path} holds no {runtime} engine",
            hint=f"dsr-export compile {bundle.path} --target {_target(bundle, runtime)}; or use --runtime onnxruntime",
        )
    fitting = [each for each in engines if not _misfits(each)]
    return next(iter([*fitting, *engines]), None)


def _target(bundle: Bundle, runtime: Runtime) -> str:
    """The first that takes the bundle's precision; not every target takes every one."""
    taking = (name for name in _TARGETS[runtime] if not lacks(TARGETS[name], bundle.manifest.precision, None))
    return next(taking, _TARGETS[runtime][-1])


def _misfits(engine: BundleTarget) -> list[str]:
    return misfits(EngineNeeds.of_entry(engine), Machine.here(installed_version(engine.backend)))
