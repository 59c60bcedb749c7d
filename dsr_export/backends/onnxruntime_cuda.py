"""ONNX Runtime on an NVIDIA GPU as a `Runner`: its CUDA provider, tensors bound where they lie, and never the CPU in
its place without a word."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from onnx import TensorProto, helper

from dsr_export.backends.base import Array
from dsr_export.backends.cuda.device_tensor import LEGACY_STREAM, DeviceTensor, array_shape, device_inputs, is_foreign
from dsr_export.backends.cuda.diagnosis import PROVIDER, find_libraries, no_provider
from dsr_export.backends.cuda.replay import Graphs
from dsr_export.backends.gpu import finish_all
from dsr_export.backends.inputs import check_declared, check_inputs
from dsr_export.backends.onnxruntime import CPU, FATAL, Providers, check_session, open_session
from dsr_export.backends.placement import Profile, placement_words, tells_places, told_elsewhere
from dsr_export.backends.runtime_names import CUDA_RUNNER
from dsr_export.backends.session_calls import SessionCalls, dtype_of, on_gpu
from dsr_export.errors import ExportError, RunnerError
from graphs.artifacts import TensorSpec

Made = TypeVar("Made")

WARNING = 2
DEVICE = 0  # of those that CUDA_VISIBLE_DEVICES leaves
NAME = PROVIDER
FIXED = {"device_id": str(DEVICE), "use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"}
"""FP32 GEMMs in FP32, which its default is not; and no race of convolutions, whose winner changes between sessions."""
CAPTURING = {**FIXED, "enable_cuda_graph": "1"}
PROVIDERS: Providers = ((NAME, FIXED), *CPU)
"""The GPU, and the CPU for what it has no kernel for, which is said."""
_MEMORY = "cuda"  # ONNX Runtime's word for where the provider computes


class OnnxRuntimeCudaRunner:
    """A model file, or a serialised model, in the kernels of the CUDA provider: half arithmetic is real there.

    `on_cpu` names the nodes that it has no kernel for, as far as they make more than sizes; None before the first run,
    where this version of ONNX Runtime tells no sooner. Kernels may differ from batch to batch.
    """

    name = CUDA_RUNNER

    def __init__(
        self,
        model: Path | bytes,
        *,
        inputs: Sequence[TensorSpec],
        weights: Path | None = None,
        graphs: Graphs = "auto",
        say: Callable[[str], None] | None = None,
    ) -> None:
        """`weights` is the folder in which a serialised model's external weights lie; `say` is told what fell back.

        `graphs` says whether calls are captured as CUDA graphs; a model with nodes on the CPU cannot be.

        Raises:
            RunnerError: a model that it cannot read, an op without an implementation, or too little GPU memory.
            ExportError: the provider cannot start here, with the cause; or inputs other than `inputs`.
        """
        self._specs = tuple(inputs)
        self._say = say or (lambda text: None)
        self.on_cpu: tuple[str, ...] | None = None
        with contextlib.ExitStack() as owned:
            self._profile = None if tells_places() else Profile()
            if self._profile is not None:
                owned.callback(self._profile.close)
            self._session, problem = self._opened(model, weights, graphs)
            check_session(self._session, self._specs)
            told: dict[str, Any] = {"graphs": graphs, "problem": problem, "say": self._say}
            self._calls: SessionCalls | None = SessionCalls(self._session, _MEMORY, DEVICE, **told)
            owned.callback(self._calls.close)
            self.replays = self._calls.replays
            if self._profile is None:
                self._tell(on_gpu(lambda: told_elsewhere(self._session, NAME, model)))
            self._owned = owned.pop_all()

    def _opened(self, model: Path | bytes, weights: Path | None, graphs: Graphs) -> tuple[Any, str | None]:
        """A session, and why its calls cannot be captured: ONNX Runtime refuses models with nodes on the CPU."""
        if graphs == "never" or self._profile is not None:
            reason = None if self._profile is None else "this version of ONNX Runtime says by a profile what runs where"
            return _started(model, weights, self._profile), reason
        try:
            return _started(model, weights, options=CAPTURING), None
        except RunnerError as error:
            session = _started(model, weights)
            self._say(f"no CUDA graph is used: {error.message}")
            return session, error.message

    def _tell(self, elsewhere: tuple[str, ...]) -> None:
        self.on_cpu = elsewhere
        if (said_of_it := placement_words(elsewhere)) is not None:
            self._say(said_of_it)

    def __enter__(self) -> OnnxRuntimeCudaRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = self._calls = None
        self._owned.close()

    def infer(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Named inputs to named outputs, batch first; raises what `Runner.infer` does."""
        made = self._run({name: self.upload(array) for name, array in check_inputs(inputs, self._specs).items()})
        return {name: tensor.numpy() for name, tensor in made.items()}

    def infer_on_device(self, inputs: Mapping[str, Any]) -> dict[str, DeviceTensor]:
        """As `infer`, from and to the GPU's memory; see `DeviceRunner`."""
        here: dict[str, Any] = {"device": DEVICE, "stream": LEGACY_STREAM}
        with device_inputs(inputs, **here, upload=self.upload, finish=_done) as found:
            if any(is_foreign(each, _done) for each in inputs.values()):
                on_gpu(finish_all)  # the provider's stream waits for no other
            check_declared({name: array_shape(tensor) for name, tensor in found.items()}, self._specs)
            return self._run(found)

    def upload(self, array: Array) -> DeviceTensor:
        """A copy on the GPU, for any number of calls."""
        import onnxruntime

        whole = np.ascontiguousarray(array).reshape(array.shape)
        return on_gpu(lambda: _tensor(onnxruntime.OrtValue.ortvalue_from_numpy(whole, _MEMORY, DEVICE)))

    def _run(self, inputs: Mapping[str, DeviceTensor]) -> dict[str, DeviceTensor]:
        """Done when it returns: the provider waits for its stream at the end of a run."""
        if self._calls is None:
            raise RunnerError("this ONNX Runtime session is closed")
        calls = self._calls
        made = on_gpu(lambda: _quietly(lambda: calls.make(inputs)))
        if self._profile is not None and self.on_cpu is None:
            self._tell(self._profile.elsewhere(self._session, NAME))
        return {name: _tensor(value) for name, value in made.items()}


def _tensor(value: Any) -> DeviceTensor:
    """ONNX Runtime's own tensor; its memory is freed with it."""
    return DeviceTensor(
        pointer=value.data_ptr(),
        shape=tuple(value.shape()),
        dtype=dtype_of(value),
        device=DEVICE,
        owner=value,
        read=_read,
        finish=_done,
    )


def _done() -> None:
    """A run has ended when it returns."""


def _read(tensor: DeviceTensor) -> Array:
    whole = np.asarray(on_gpu(tensor.owner.numpy))
    first = (tensor.pointer - tensor.owner.data_ptr()) // tensor.dtype.itemsize  # a row of it, where it was indexed
    count = int(np.prod(tensor.shape, dtype=np.int64))
    return whole.reshape(-1)[first : first + count].reshape(tensor.shape)


@functools.cache
def cuda_problem() -> str | None:
    """Why the provider does not start here, which is tried; None where it does."""
    try:
        _started(_smallest(), None)
    except ExportError as error:
        return error.message
    return None


def _smallest() -> bytes:
    """A model that any version reads."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", value[:1], value[1:])
    opsets = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def _started(
    model: Path | bytes, weights: Path | None, profile: Profile | None = None, options: Mapping[str, str] = FIXED
) -> Any:
    find_libraries()
    problem = no_provider(NAME)
    if problem is not None:
        raise problem
    providers = ((NAME, options), *CPU)
    prefix = None if profile is None else profile.prefix
    session = on_gpu(lambda: _quietly(lambda: open_session(model, True, None, providers, weights, prefix)))
    if NAME not in session.get_providers():
        raise no_provider(NAME, failed=True) or RunnerError("ONNX Runtime left its CUDA provider out, without a reason")
    return session


def _quietly(call: Callable[[], Made]) -> Made:
    """What `call` returns, without ONNX Runtime's own lines: errors are raised, and the rest is of no use to users."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(FATAL)
    try:
        return call()
    finally:
        onnxruntime.set_default_logger_severity(WARNING)  # its own default
