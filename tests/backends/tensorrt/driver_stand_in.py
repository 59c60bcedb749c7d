"""A stand-in for CUDA's driver: host memory, a log of calls, what is taken and not given back, and faults on demand."""

# ruff: noqa: N802, N815 (the driver's own names)
from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable
from typing import Any

KINDS = {
    "cuMemAlloc": "memory",
    "cuStreamCreate": "stream",
    "cuEventCreate": "event",
    "cuStreamEndCapture": "graph",
    "cuGraphInstantiate": "launchable",
    "cuDevicePrimaryCtxRetain": "context",
}
ENDS = {
    "cuMemFree": "memory",
    "cuStreamDestroy": "stream",
    "cuEventDestroy": "event",
    "cuGraphDestroy": "graph",
    "cuGraphExecDestroy": "launchable",
    "cuDevicePrimaryCtxRelease": "context",
}
OUT_OF_MEMORY, FAILED = 2, 719
CONTEXT, DEVICE = 77, 55


class Driver:
    """`fail_at` is the number of the call that fails, with `code`; what gives something back does so all the same.

    `refused` is a function that fails for want of memory, whenever it is called; `missing` one that the driver lacks,
    as its bindings say so.
    """

    def __init__(self) -> None:
        self.log: list[str] = []
        self.alive: dict[str, dict[int, Any]] = {kind: {} for kind in KINDS.values()}
        self.current: list[int] = []
        self.capturing: list[Callable[[], None]] | None = None
        self.fail_at: int | None = None
        self.refused: str | None = None
        self.missing: str | None = None
        self.code = FAILED
        self.memory_left = 1 << 30
        self.clock = 0.0
        self.last = 1000

    def CUstreamCaptureMode(self, number: int) -> int:
        return number

    def __getattr__(self, name: str) -> Callable[..., tuple[Any, ...]]:
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.log.append(name)
            if name == self.missing:
                raise RuntimeError(f"function {name}_v2 is not found")
            if name == self.refused:
                return (OUT_OF_MEMORY, *[None] * int(name in RETURNS))
            failed = self.fail_at == len(self.log) - 1
            if failed and name not in (*ENDS, "cuCtxPopCurrent"):
                if name == "cuStreamEndCapture":
                    self.capturing = None
                return (self.code, *[None] * (2 if name == "cuMemGetInfo" else int(name in RETURNS)))
            made = getattr(self, f"_{name}")(*arguments)
            return (self.code if failed else 0, *(made if isinstance(made, tuple) else () if made is None else (made,)))

        return call

    @property
    def held(self) -> dict[str, int]:
        """What was taken and not given back, by kind."""
        return {kind: len(each) for kind, each in self.alive.items() if each}

    def counts(self, start: int = 0) -> Counter[str]:
        return Counter(self.log[start:])

    def enqueue(self, work: Callable[[], None]) -> None:
        """Runs it, or keeps it for the graph that is captured."""
        if self.capturing is None:
            work()
        else:
            self.capturing.append(work)

    def _new(self, kind: str, value: Any = None) -> int:
        self.last += 1
        self.alive[kind][self.last] = value
        return self.last

    def _cuInit(self, flags: int) -> None: ...

    def _cuDeviceGet(self, index: int) -> int:
        return DEVICE

    def _cuDeviceGetName(self, length: int, device: int) -> bytes:
        return b"NVIDIA L4\0\0"

    def _cuDeviceGetPCIBusId(self, length: int, device: int) -> bytes:
        return b"0000:01:00.0\0"

    def _cuDriverGetVersion(self) -> int:
        return 13000

    def _cuDevicePrimaryCtxRetain(self, device: int) -> int:
        self._new("context")  # it is counted: every runner has the same one
        return CONTEXT

    def _cuDevicePrimaryCtxRelease(self, device: int) -> None:
        self.alive["context"].popitem()

    def _cuCtxPushCurrent(self, context: int) -> None:
        assert context == CONTEXT and self.alive["context"]
        self.current.append(context)

    def _cuCtxPopCurrent(self) -> int:
        return self.current.pop()

    def _cuMemGetInfo(self) -> tuple[int, int]:
        return self.memory_left, 1 << 30

    def _cuMemAlloc(self, size: int) -> int:
        assert self.current
        assert self.capturing is None
        block = (ctypes.c_uint8 * size)()
        self.memory_left -= size
        self.alive["memory"][ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def _cuMemFree(self, pointer: int) -> None:
        assert self.current or self.fail_at is not None
        self.memory_left += len(self.alive["memory"].pop(pointer))

    def _copy(self, to: int, source: int, size: int, stream: int) -> None:
        assert stream in self.alive["stream"]
        self.enqueue(lambda: ctypes.memmove(to, source, size) and None)

    _cuMemcpyHtoDAsync = _cuMemcpyDtoHAsync = _cuMemcpyDtoDAsync = _copy

    def _cuMemsetD8Async(self, pointer: int, byte: int, size: int, stream: int) -> None:
        self.enqueue(lambda: ctypes.memset(pointer, byte, size) and None)

    def _cuStreamCreate(self, flags: int) -> int:
        assert flags == 1
        return self._new("stream")

    def _cuStreamDestroy(self, stream: int) -> None:
        del self.alive["stream"][stream]

    def _cuStreamSynchronize(self, stream: int) -> None:
        assert stream in self.alive["stream"] and self.capturing is None

    def _cuStreamBeginCapture(self, stream: int, mode: int) -> None:
        assert mode == 1
        self.capturing = []

    def _cuStreamEndCapture(self, stream: int) -> int:
        work, self.capturing = self.capturing, None
        return self._new("graph", work)

    def _cuGraphInstantiate(self, graph: int, flags: int) -> int:
        return self._new("launchable", self.alive["graph"][graph])

    def _cuGraphDestroy(self, graph: int) -> None:
        del self.alive["graph"][graph]

    def _cuGraphExecDestroy(self, graph: int) -> None:
        del self.alive["launchable"][graph]

    def _cuGraphLaunch(self, graph: int, stream: int) -> None:
        self.clock += 1.0
        for work in self.alive["launchable"][graph]:
            work()

    def _cuEventCreate(self, flags: int) -> int:
        return self._new("event")

    def _cuEventDestroy(self, event: int) -> None:
        del self.alive["event"][event]

    def _cuEventRecord(self, event: int, stream: int) -> None:
        self.alive["event"][event] = self.clock

    def _cuEventSynchronize(self, event: int) -> None: ...

    def _cuEventElapsedTime(self, first: int, second: int) -> float:
        return float(self.alive["event"][second] - self.alive["event"][first])

    def _cuGetErrorString(self, code: Any) -> bytes:
        return b"unspecified launch failure"

    def _cuGetErrorName(self, code: Any) -> bytes:
        return b"CUDA_ERROR_LAUNCH_FAILED"


RETURNS = frozenset(
    {*KINDS, "cuDeviceGet", "cuDeviceGetName", "cuDriverGetVersion", "cuCtxPopCurrent", "cuEventElapsedTime"}
    | {"cuGetErrorString", "cuGetErrorName", "cuDeviceGetPCIBusId"}
)
"""Functions that return something beside their code."""
