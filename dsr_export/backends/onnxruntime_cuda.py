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
from dsr_export.backends.cuda.diagnosis import PROVIDER, find_libraries, no_provider, out_of_memory
from dsr_export.backends.gpu import finish_all
from dsr_export.backends.inputs import check_declared, check_inputs
from dsr_export.backends.onnxruntime import CPU, FATAL, Providers, check_session, failures, open_session, said
from dsr_export.backends.placement import Profile, placement_words, tells_places, told_elsewhere
from dsr_export.backends.runtime_names import CUDA_RUNNER
from dsr_export.errors import ExportError, RunnerError
from graphs.artifacts import TensorSpec

Made = TypeVar("Made")

WARNING = 2
DEVICE = 0  # of those that CUDA_VISIBLE_DEVICES leaves
NAME = PROVIDER
FIXED = {"device_id": str(DEVICE), "use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"}
"""FP32 GEMMs in FP32, which its default is not; and no race of convolutions, whose winner changes between sessions."""
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
        say: Callable[[str], None] | None = None,
    ) -> None:
        """`weights` is the folder in which a serialised model's external weights lie; `say` is told what fell back.

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
            self._session = _started(model, weights, self._profile)
            check_session(self._session, self._specs)
            self._outputs = [output.name for output in self._session.get_outputs()]
            if self._profile is None:
                self._tell(told_elsewhere(self._session, NAME, model))
            self._owned = owned.pop_all()

    def _tell(self, elsewhere: tuple[str, ...]) -> None:
        self.on_cpu = elsewhere
        if (said_of_it := placement_words(elsewhere)) is not None:
            self._say(said_of_it)

    def __enter__(self) -> OnnxRuntimeCudaRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = None
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
                _on_gpu(finish_all)  # the provider's stream waits for no other
            check_declared({name: array_shape(tensor) for name, tensor in found.items()}, self._specs)
            return self._run(found)

    def upload(self, array: Array) -> DeviceTensor:
        """A copy on the GPU, for any number of calls."""
        import onnxruntime

        whole = np.ascontiguousarray(array).reshape(array.shape)
        return _on_gpu(lambda: _tensor(onnxruntime.OrtValue.ortvalue_from_numpy(whole, _MEMORY, DEVICE)))

    def _run(self, inputs: Mapping[str, DeviceTensor]) -> dict[str, DeviceTensor]:
        """Done when it returns: the provider waits for its stream at the end of a run."""
        if self._session is None:
            raise RunnerError("this ONNX Runtime session is closed")
        return _on_gpu(lambda: self._run_bound(inputs))

    def _run_bound(self, inputs: Mapping[str, DeviceTensor]) -> dict[str, DeviceTensor]:
        binding = self._session.io_binding()
        for name, tensor in inputs.items():
            binding.bind_input(name, _MEMORY, DEVICE, tensor.dtype.type, list(tensor.shape), tensor.pointer)
        for name in self._outputs:
            binding.bind_output(name, _MEMORY, DEVICE)
        self._session.run_with_iobinding(binding)
        if self._profile is not None and self.on_cpu is None:
            self._tell(self._profile.elsewhere(self._session, NAME))
        return dict(zip(self._outputs, map(_tensor, binding.get_outputs()), strict=True))


def _tensor(value: Any) -> DeviceTensor:
    """ONNX Runtime's own tensor; its memory is freed with it."""
    return DeviceTensor(
        pointer=value.data_ptr(),
        shape=tuple(value.shape()),
        dtype=np.dtype(_numpy_type(value.data_type())),
        device=DEVICE,
        owner=value,
        read=_read,
        finish=_done,
    )


def _done() -> None:
    """A run has ended when it returns."""


def _read(tensor: DeviceTensor) -> Array:
    whole = np.asarray(_on_gpu(tensor.owner.numpy))
    first = (tensor.pointer - tensor.owner.data_ptr()) // tensor.dtype.itemsize  # a row of it, where it was indexed
    count = int(np.prod(tensor.shape, dtype=np.int64))
    return whole.reshape(-1)[first : first + count].reshape(tensor.shape)


def _numpy_type(kind: str) -> str:
    element = kind.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(element, element)


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


def _started(model: Path | bytes, weights: Path | None, profile: Profile | None = None) -> Any:
    import onnxruntime

    find_libraries()
    problem = no_provider(NAME)
    if problem is not None:
        raise problem
    onnxruntime.set_default_logger_severity(FATAL)  # a library that does not load is said there, and by the error below
    try:
        session = _on_gpu(
            lambda: open_session(model, True, None, PROVIDERS, weights, None if profile is None else profile.prefix)
        )
    finally:
        onnxruntime.set_default_logger_severity(WARNING)  # its own default
    if NAME not in session.get_providers():
        raise no_provider(NAME, failed=True) or RunnerError("ONNX Runtime left its CUDA provider out, without a reason")
    return session


def _on_gpu(call: Callable[[], Made]) -> Made:
    """What `call` returns. What ONNX Runtime raises of a GPU is our error: its memory is not the host's."""
    kinds: tuple[type[Exception], ...] = (RuntimeError, *failures())  # its bindings' own functions raise the first
    try:
        return call()
    except RunnerError as error:
        failed = out_of_memory(error.message) or error
    except kinds as error:
        failed = out_of_memory(str(error)) or RunnerError(f"ONNX Runtime failed on the GPU: {said(error)}")
    raise failed  # outside of the handlers: its cause would be called a lack of the host's memory
