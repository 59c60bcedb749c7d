"""ONNX Runtime on the CPU as a `Runner`. With `onnxruntime_cuda`, the only module that imports it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from dsr_export.backends.base import Array
from dsr_export.backends.inputs import check_inputs
from dsr_export.backends.memory_budget import budget, stored_bytes, within
from dsr_export.backends.runtime_names import CPU_RUNNER
from dsr_export.errors import ExportError, RunnerError
from graphs.artifacts import TensorSpec
from graphs.files import weights_file
from graphs.names import module_of

Providers = Sequence[tuple[str, Mapping[str, str]]]
"""Names of execution providers in the order in which they are asked, each with its options."""
CPU: Providers = (("CPUExecutionProvider", {}),)
RECORD_PLACES = "session.record_ep_graph_assignment_info"
FATAL = 4  # its errors reach the caller as exceptions; below this it would print them too
LARGE_BYTES = 1 << 30  # of weights beside the model
CRASHING = ["MatmulTransposeFusion"]
"""ONNX Runtime 1.31 ends in a segmentation fault where this optimiser meets a half tensor that is transposed for a GEMM
and for another reader. No session has it, whatever its graph holds: what it does changes no number, and saves no time
that could be measured."""
_ELEMENTS = {"float": "float32", "double": "float64", "float16": "float16", "bool": "bool"}
_FAILURES = (
    "EPFail",
    "EngineError",
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "ModelRequiresCompilation",
    "NoModel",
    "NoSuchFile",
    "NotFound",
    "NotImplemented",
    "RuntimeException",
)


class OnnxRuntimeRunner:
    """Runs a model file, or a serialised model, on the CPU."""

    name = CPU_RUNNER

    def __init__(
        self,
        model: Path | bytes,
        *,
        inputs: Sequence[TensorSpec],
        optimize: bool | Literal["constants"] = True,
        threads: int | None = None,
        weights: Path | None = None,
    ) -> None:
        """`optimize=False` runs the graph node by node as written (the reference numerics of a Q/DQ graph).

        `"constants"` does so too, but computes once what does not depend on the inputs: GEMMs then have constant
        weights, which are packed, and packed weights sum in the same order whatever the batch and the threads are.
        For large weights that would take too much memory; it is then as False.

        `weights` is the folder in which a serialised model's external weights lie.

        Raises:
            RunnerError: a model that it cannot read, or an op without an implementation.
            ExportError: inputs other than `inputs`.
        """
        self._specs = tuple(inputs)
        self._stored = _stored(model, weights)
        self._session: Any = self._within([], lambda: open_session(model, optimize, threads, CPU, weights))
        check_session(self._session, self._specs)
        self._outputs = [output.name for output in self._session.get_outputs()]

    def __enter__(self) -> OnnxRuntimeRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = None

    def infer(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Named inputs to named outputs, batch first; raises what `Runner.infer` does."""
        if self._session is None:
            raise RunnerError("this ONNX Runtime session is closed")
        fed = check_inputs(inputs, self._specs)
        try:
            results = self._within(list(fed.values()), lambda: self._session.run(self._outputs, fed))
        except failures() as error:
            raise RunnerError(f"ONNX Runtime failed while running: {said(error)}") from error
        return {name: np.asarray(result) for name, result in zip(self._outputs, results, strict=True)}

    def _within(self, fed: Sequence[Array], call: Callable[[], Any]) -> Any:
        return within(budget(self._stored, fed), call)


def open_session(
    model: Path | bytes,
    optimize: bool | Literal["constants"],
    threads: int | None,
    providers: Providers,
    weights: Path | None,
    profile: Path | None = None,
) -> Any:
    """A session of ONNX Runtime's. A provider that does not start is left out, with a line in its log at most.

    `profile` is how the file of its profile begins, where it makes one.

    Raises:
        RunnerError: a model that it cannot read, or an op without an implementation.
    """
    import onnxruntime

    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    large = stored_bytes(_beside(model, weights)) > LARGE_BYTES
    constants = levels.ORT_DISABLE_ALL if large else levels.ORT_ENABLE_BASIC
    chosen = {True: levels.ORT_ENABLE_ALL, False: levels.ORT_DISABLE_ALL, "constants": constants}
    options.graph_optimization_level = chosen[optimize]
    options.use_deterministic_compute = True
    # It plans one block of memory, in time quadratic in the tensors that are kept: probes and taps keep thousands.
    options.enable_mem_pattern = optimize is True
    options.intra_op_num_threads = threads or (_fewer(large) if optimize == "constants" else _allowed())
    # In the file's order, where range probes stand next to what they read: the default order runs them last and keeps
    # every tensor alive until then (12 GB instead of 3 for a model of 676 M parameters).
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    if providers is not CPU:
        options.add_session_config_entry(RECORD_PLACES, "1")
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    if weights is not None:
        _set_weights(options, weights)
    if large:  # its packed copy of the weights would double the memory
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_cpu_mem_arena = False
    try:
        return onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else _openable(model),
            options,
            providers=[(name, dict(settings)) for name, settings in providers],
            disabled_optimizers=CRASHING,
            enable_fallback=False,  # it would print the error to stdout, and go on with other providers
        )
    except failures() as error:
        raise _creation_error(error) from error


def _openable(path: Path) -> str | bytes:
    """What a session takes: the path, or the content of a file whose path is no UTF-8."""
    if _is_utf_8(path):
        return str(path)
    _refuse_weights(path, _beside(path, None))
    return path.read_bytes()


def _set_weights(options: Any, folder: Path) -> None:
    """Where the external weights of a serialised model lie; a path that is no UTF-8 is none to ONNX Runtime."""
    if _is_utf_8(folder):
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    else:
        _refuse_weights(folder, folder.glob("*.data"))


def _is_utf_8(path: Path) -> bool:
    return not any("\udc80" <= letter <= "\udcff" for letter in str(path))


def _refuse_weights(path: Path, found: Iterable[Path]) -> None:
    if any(each.exists() for each in found):
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise ExportError(f"{shown} is no UTF-8, and ONNX Runtime opens no weights there", hint="rename the folder")


def _allowed() -> int:
    """ONNX Runtime makes a thread per core, also of cores that this process may not use; 0 is its own choice."""
    if not hasattr(os, "sched_getaffinity"):
        return 0
    usable = len(os.sched_getaffinity(0))
    return usable if usable < (os.cpu_count() or 1) else 0


def _fewer(large: bool) -> int:
    """Of weights that are not packed, a thread sums its columns in another order where it gets 64 or fewer."""
    return min(os.cpu_count() or 1, 8) if large else _allowed()


def _beside(model: Path | bytes, folder: Path | None) -> list[Path]:
    """Files of weights beside the model, or in the folder of a serialised one."""
    if isinstance(model, Path):
        return list({model.with_name(model.name + ".data"), weights_file(model)})  # a foreign file may have any name
    return [] if folder is None else list(folder.glob("*.data"))


def _stored(model: Path | bytes, folder: Path | None) -> int:
    own = stored_bytes([model]) if isinstance(model, Path) else len(model)
    return own + stored_bytes(_beside(model, folder))


def check_session(session: Any, specs: Sequence[TensorSpec]) -> None:
    """The session must take exactly the inputs that callers are checked against."""
    declared = {value.name: _numpy_name(value.type) for value in session.get_inputs()}
    wanted = {spec.name: spec.dtype for spec in specs}
    if declared != wanted:
        raise ExportError(
            f"the model takes the inputs {declared}, where {wanted} are declared",
            hint="the model and its manifest do not belong together; build the bundle again",
        )


def _numpy_name(kind: str) -> str:
    """`tensor(float)` -> `float32`."""
    element = kind.removeprefix("tensor(").removesuffix(")")
    return _ELEMENTS.get(element, element)


def _creation_error(error: Exception) -> RunnerError:
    reason = said(error)
    missing = re.search(r"Could not find an implementation for (\S+?)\(\d+\) node with name '([^']*)'", reason)
    if missing is None:
        return RunnerError(f"ONNX Runtime cannot load the model: {reason}", hint="see `dsr-export inspect`")
    op, node = missing.groups()
    return RunnerError(
        f"ONNX Runtime has no kernel for {op} with these types: node '{node}' (module {module_of(node)})",
        hint="its CPU provider computes no BF16; build with --precision fp32 or fp16, or run an engine on a GPU",
    )


def failures() -> tuple[type[Exception], ...]:
    """Its exception types, which have no common base but Exception; versions differ in which exist.

    A message that quotes a damaged name is no UTF-8, and arrives as the failure to decode it.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (UnicodeDecodeError, *(getattr(state, name) for name in _FAILURES if hasattr(state, name)))


def said(error: Exception) -> str:
    """ONNX Runtime's words, without the C++ signature that hides what a library of CUDA said."""
    text = re.sub(r"\s+", " ", str(error)).strip()
    text = re.sub(r"/onnxruntime_src/\S+ std::conditional_t<THRW.*?((CUDA|CUBLAS|CUDNN|CUFFT)\w* failure)", r"\1", text)
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)[:600]
