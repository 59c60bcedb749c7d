"""What TensorRT 10 and 11 tell of a built engine's launches: by its engine inspector, on the GPU that it is for.

Engines are built to tell it: their plans hold the names, sizes and types of layers as well. Polygraphy asks for that by
itself, so that plans are as large as before; said here, it does not hang on a default.
"""

from __future__ import annotations

from typing import Any

from dsr_export.backends.tensorrt.engine_facts import ProfileShapes
from dsr_export.backends.tensorrt.loading import load_engine
from dsr_export.backends.tensorrt.vendor import Vendor


class InspectionError(Exception):
    """Why an engine that was built does not tell what it launches."""


def detailed(vendor: Vendor) -> dict[str, Any]:
    """What `create_config` is given for an engine that tells its layers. TensorRT-RTX's plans tell them anyway."""
    levels = getattr(vendor.trt, "ProfilingVerbosity", None)
    return {} if vendor.backend == "tensorrt_rtx" or levels is None else {"profiling_verbosity": levels.DETAILED}


def engine_information(vendor: Vendor, plan: memoryview, profile: ProfileShapes) -> str:
    """The inspector's JSON of the engine at the optimal shapes of `profile`. The engine is loaded, and given back.

    Raises:
        InspectionError: whatever goes wrong: a build has succeeded by then, and stays one.
    """
    with vendor.quietly() as log:
        try:
            return _told(vendor, plan, {name: tuple(sizes["opt"]) for name, sizes in profile.items()})
        except Exception as error:  # bindings of C++ raise anything
            said = "; ".join(log.errors) or str(error) or type(error).__name__
    raise InspectionError(f"the engine was not inspected: {said}")  # not from it, which would hold the engine


def _told(vendor: Vendor, plan: memoryview, shapes: dict[str, tuple[int, ...]]) -> str:
    """An inspector without a context of these shapes knows no size that follows the batch."""
    runtime, engine = load_engine(vendor, plan)
    context = inspector = None
    try:
        context = _context(vendor, engine)
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise RuntimeError(f"it does not take {name} as {list(shape)}")
        inspector = engine.create_engine_inspector()
        inspector.execution_context = context
        return str(inspector.get_engine_information(vendor.trt.LayerInformationFormat.JSON))
    finally:
        del inspector, context, engine, runtime  # in this order: each needs the next


def _context(vendor: Vendor, engine: Any) -> Any:
    """One that holds no memory for activations, where TensorRT makes such: nothing is run in it."""
    strategies = getattr(vendor.trt, "ExecutionContextAllocationStrategy", None)
    given = () if strategies is None else (strategies.USER_MANAGED,)
    context = engine.create_execution_context(*given)
    if context is None:
        raise RuntimeError("it makes no context, and gives no reason")
    return context
