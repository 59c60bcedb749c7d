"""ONNX -> engine plan, for TensorRT-RTX and TensorRT 10 and 11 alike.

Always strongly typed (the graph's types are the engine's) and without TF32. A plan cannot be read back without a GPU,
so everything worth knowing is recorded while it is built.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from dsr_export.backends.gpu import compute_capability
from dsr_export.backends.tensorrt.engine_facts import ProfileShapes, layer_facts, profile_shapes, signature
from dsr_export.backends.tensorrt.engine_fit import platform_facts, rtx_supports
from dsr_export.backends.tensorrt.errors import build_error, parse_error
from dsr_export.backends.tensorrt.inspection import InspectionError, detailed, engine_information
from dsr_export.backends.tensorrt.vendor import Vendor, VendorLog, load_vendor
from dsr_export.config import BatchRange
from dsr_export.engine_schedule.facts import inspected_facts, no_schedule, schedule_facts
from dsr_export.errors import ExportError
from dsr_export.storage import heap
from graphs.artifacts import TensorSpec
from graphs.digests import bytes_digest
from graphs.files import load_model
from graphs.foreign.external_data import check_external_data
from graphs.targets import BUILDS_ANYWHERE, Target, check_model


@dataclass(frozen=True, kw_only=True)
class Engine:
    """`plan`: the vendor's bytes, nothing added, in the vendor's memory. `facts`: JSON values, see `build_engine`."""

    plan: memoryview
    facts: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Parsed:
    """The parser owns the weights, so that it must live as long as the network."""

    builder: Any
    network: Any
    parser: Any


def build_engine(
    model: Path,
    target: Target,
    *,
    batch: BatchRange,
    inputs: Sequence[TensorSpec],
    progress: Callable[[str], None] | None = None,
) -> Engine:
    """Builds the engine of `model` for `target`, with one optimisation profile from `batch`.

    `inputs` must describe the model's inputs; axes named there take the batch sizes. `progress` is told what begins.
    The facts: `tool`, `version`, `polygraphy`, `target`, `compute_capabilities` (those asked for; empty for portable),
    `platform` (`system` and `machine` it was built on), `plan_bytes`, `plan_sha256`, `profile` (input -> min, opt, max
    shape), `inputs` and `outputs` (name, and dtype and shape as declared and in the engine), `layers`,
    `layer_output_types` (numpy name -> count), `strongly_typed`, `tf32`, `warnings` (TensorRT's), `seconds`, and
    `schedule`, what it launches at the optimal batch, or None and in `schedule_problem` why.

    Raises:
        ExportError: a missing package, an unsupported op, unsafe external data, or a build that fails; with the node,
            its PyTorch module and what TensorRT said.
    """
    say = progress or (lambda text: None)
    if target.backend == "onnxruntime":
        raise ExportError(f"target '{target.name}' runs the ONNX graph itself and has no engine")
    proto = load_model(model, weights=False)
    check_external_data(proto, model.parent)
    check_model(model, target)
    vendor = _vendor(target)
    began = time.monotonic()
    heap.release_large_blocks()  # the builder copies every weight several times
    with vendor.quietly() as log, _gpu_named(target):
        say(f"parsing {model.name}")
        parsed = _parse(vendor, model, proto)
        io = signature(parsed.network, proto, inputs)
        profile = profile_shapes(batch, inputs)
        say(f"building for {target.name}")
        plan, settings = _compile(vendor, parsed, target, profile, proto, log)
        facts = {
            "tool": vendor.backend,
            "version": vendor.version,
            "polygraphy": vendor.polygraphy_version,
            "target": target.name,
            "platform": platform_facts(),
            "plan_bytes": len(plan),
            "plan_sha256": bytes_digest(plan),
            "profile": profile,
            "warnings": list(log.warnings),
            **io,
            **settings,
            **layer_facts(parsed.network),
            "seconds": round(time.monotonic() - began, 3),
        }
    return Engine(plan=plan, facts={**facts, **_schedule(vendor, plan, proto, batch, profile)})


def _schedule(
    vendor: Vendor, plan: memoryview, proto: onnx.ModelProto, batch: BatchRange, profile: ProfileShapes
) -> dict[str, Any]:
    """A plan of TensorRT-RTX holds it as text; one of TensorRT tells it where it is loaded, which needs its GPU."""
    if vendor.backend == "tensorrt_rtx":
        return schedule_facts(plan, proto, batch.opt, batch.max)
    try:
        told = engine_information(vendor, plan, profile)
    except InspectionError as error:
        return no_schedule(str(error))
    return inspected_facts(told, proto, batch.opt, batch.max)


def _vendor(target: Target) -> Vendor:
    """The packages of the target's backend, in a version that it accepts, with the GPU that it may need."""
    vendor = load_vendor(target.backend)
    if not target.accepts_version(vendor.version):
        raise ExportError(
            f"target '{target.name}' needs {vendor.backend} {target.version}, and {vendor.version} is installed",
            hint="an engine runs only on the version it was built with; build it on the device",
        )
    if target.needs_gpu_to_build:
        _check_gpu(target)
    return vendor


def _check_gpu(target: Target) -> None:
    here = compute_capability()
    if here is None or target.compute_capability not in ("current", here):
        raise ExportError(
            f"target '{target.name}' is built on its own GPU, and this machine has "
            + ("none" if here is None else f"one of compute capability {here}, not {target.compute_capability}"),
            hint=f"on the device: dsr-export compile BUNDLE --target {target.name}; {BUILDS_ANYWHERE}",
        )


@contextlib.contextmanager
def _gpu_named(target: Target) -> Iterator[None]:
    """A GPU that TensorRT-RTX is not made for may be why a build fails, and what it says is then of no help."""
    try:
        yield
    except ExportError as error:
        here = compute_capability()
        if target.name != "rtx:current" or here is None or rtx_supports(here):
            raise
        raise ExportError(
            f"{error.message}; TensorRT-RTX is not made for GPUs of compute capability {here}",
            hint="build with TensorRT: --target trt10 or trt11; or use --runtime onnxruntime",
        ) from error


def _parse(vendor: Vendor, model: Path, proto: onnx.ModelProto) -> _Parsed:
    # Not Polygraphy's NetworkFromOnnxPath: it turns the parser's errors, which name their node, into one line of text.
    try:
        builder, network = vendor.polygraphy.CreateNetwork(strongly_typed=True)()
    except (vendor.failure, TypeError) as error:  # a binding whose C++ factory fails raises TypeError
        raise ExportError(f"{vendor.backend} does not start: {_last(vendor.log, error)}") from error
    vendor.trt.init_libnvinfer_plugins(vendor.logger, "")
    parser = vendor.trt.OnnxParser(network, vendor.logger)
    if not parser.parse_from_file(str(model)) or parser.num_errors:
        raise parse_error([parser.get_error(i) for i in range(parser.num_errors)], proto, vendor.log)
    return _Parsed(builder=builder, network=network, parser=parser)


def _compile(
    vendor: Vendor,
    parsed: _Parsed,
    target: Target,
    profile: ProfileShapes,
    proto: onnx.ModelProto,
    log: VendorLog,
) -> tuple[memoryview, dict[str, Any]]:
    shapes = vendor.polygraphy.Profile()
    for name, sizes in profile.items():
        shapes.add(name, **{key: tuple(shape) for key, shape in sizes.items()})
    settings: dict[str, Any] = {}

    def configure(builder: Any, network: Any) -> Any:
        config = vendor.create_config(profiles=[shapes], **_capabilities(target), **detailed(vendor))(builder, network)
        settings.update(_settings(vendor, config, network, target))
        return config

    loader = vendor.polygraphy.EngineBytesFromNetwork((parsed.builder, parsed.network, parsed.parser), config=configure)
    try:
        return memoryview(loader()).cast("B"), settings  # no copy: a plan is as large as the weights
    except vendor.failure as error:
        raise build_error(proto, target, log, error) from error


def _capabilities(target: Target) -> dict[str, Any]:
    if target.backend != "tensorrt_rtx" or target.compute_capability is None:
        return {}
    if target.compute_capability == "current":
        return {"use_gpu": True}
    return {"compute_capabilities": [tuple(int(part) for part in target.compute_capability.split("."))]}


def _settings(vendor: Vendor, config: Any, network: Any, target: Target) -> dict[str, Any]:
    """Switches TF32 off and reads back what holds: a flag that was set is no proof, one that reads back is."""
    tf32 = getattr(vendor.trt.BuilderFlag, "TF32", None)
    if tf32 is not None:
        config.clear_flag(tf32)
    capability = compute_capability() if target.compute_capability == "current" else target.compute_capability
    return {
        "compute_capabilities": [] if capability is None else [capability],
        "tf32": tf32 is not None and bool(config.get_flag(tf32)),
        "strongly_typed": bool(network.get_flag(vendor.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)),
    }


def _last(log: VendorLog, error: Exception) -> str:
    return log.errors[-1] if log.errors else str(error)
