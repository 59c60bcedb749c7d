"""One stream of a device: copies, waiting, times, and work that is captured once and launched again and again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from dsr_export.backends.base import Array
from dsr_export.backends.cuda.driver import NON_BLOCKING, THREAD_LOCAL, Cuda


class Stream:
    """Everything that is put into it runs in that order. `handle` is the driver's, as TensorRT takes it."""

    def __init__(self, cuda: Cuda, owned: ExitStack) -> None:
        """It is destroyed with `owned`. Raises RunnerError where the driver fails, as all methods do."""
        self._cuda = cuda
        self.handle = int(cuda.call("cuStreamCreate", NON_BLOCKING))
        owned.callback(cuda.give_back, "cuStreamDestroy", self.handle)

    def to_device(self, pointer: int, array: Array) -> None:
        """Copies a contiguous array, whose memory may change as soon as this returns."""
        self._cuda.call("cuMemcpyHtoDAsync", pointer, array.ctypes.data, array.nbytes, self.handle)

    def to_host(self, array: Array, pointer: int) -> None:
        """Copies into a contiguous array, which is filled once the stream is finished."""
        self._cuda.call("cuMemcpyDtoHAsync", array.ctypes.data, pointer, array.nbytes, self.handle)

    def within_device(self, to: int, pointer: int, nbytes: int) -> None:
        """Copies from one place of the device's memory to another; from a place to itself there is nothing to do."""
        if to != pointer:
            self._cuda.call("cuMemcpyDtoDAsync", to, pointer, nbytes, self.handle)

    def fill(self, pointer: int, nbytes: int, byte: int) -> None:
        """Sets every byte."""
        self._cuda.call("cuMemsetD8Async", pointer, byte, nbytes, self.handle)

    def finish(self) -> None:
        """Waits until everything in it is done."""
        self._cuda.call("cuStreamSynchronize", self.handle)

    def captured(self, work: Callable[[], None]) -> int:
        """What `work` puts into the stream, as a graph to launch instead; nothing of it runs now."""
        self._cuda.call("cuStreamBeginCapture", self.handle, self._cuda.api.CUstreamCaptureMode(THREAD_LOCAL))
        try:
            work()
        except BaseException:
            self._drop_capture()
            raise
        graph = self._cuda.call("cuStreamEndCapture", self.handle)
        try:
            return int(self._cuda.call("cuGraphInstantiate", graph, 0))
        finally:
            self._cuda.give_back("cuGraphDestroy", graph)

    def _drop_capture(self) -> None:
        """Work that failed has mostly spoilt the capture, which then ends without a graph."""
        code, *graph = self._cuda.api.cuStreamEndCapture(self.handle)
        if not int(code) and int(graph[0]):
            self._cuda.give_back("cuGraphDestroy", graph[0])

    def launch(self, graph: int) -> None:
        self._cuda.call("cuGraphLaunch", graph, self.handle)

    def drop(self, graph: int) -> None:
        """Of a graph that is launched no more."""
        self._cuda.give_back("cuGraphExecDestroy", graph)

    def milliseconds(self, work: Callable[[], None]) -> float:
        """Between two events of the device, before and after what `work` puts into the stream; waits for it."""
        with ExitStack() as owned:
            events = []
            for _ in range(2):
                events.append(self._cuda.call("cuEventCreate", 0))
                owned.callback(self._cuda.give_back, "cuEventDestroy", events[-1])
            self._cuda.call("cuEventRecord", events[0], self.handle)
            work()
            self._cuda.call("cuEventRecord", events[1], self.handle)
            self._cuda.call("cuEventSynchronize", events[1])
            return float(self._cuda.call("cuEventElapsedTime", *events))
