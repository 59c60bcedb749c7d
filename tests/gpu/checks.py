"""What holds for every runner on a GPU, whichever runtime it belongs to."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from dsr_export.backends.base import Array, Runner
from dsr_export.backends.cuda.device_tensor import DeviceRunner
from dsr_export.backends.gpu import _DRIVER
from dsr_export.backends.steps import stepping
from dsr_export.bundle.reader import Bundle
from dsr_export.parity.checks.table import ParityReport, check_parity
from dsr_export.parity.golden.reader import read_golden
from dsr_export.parity.golden.vectors import Golden
from dsr_export.parity.metrics import compare
from dsr_export.parity.tolerances import Tolerance
from dsr_export.verification.runtime_checks import golden_sampler

REPEATS, MANY = 20, 1000
WARM_UP = 50
PAGE = 2 << 20  # bytes: the driver hands out device memory in pages of this size


def parity(bundle: Bundle, runner: Runner) -> ParityReport:
    """The golden vectors of `bundle` through `runner`, as `verify` judges them."""
    golden = read_golden(bundle)
    tolerance = Tolerance.from_dict(bundle.manifest.tolerances)
    return check_parity(runner, golden, golden_sampler(bundle, golden), tolerance, lambda done, of: None)


def snr_db(runner: Runner, golden: Golden) -> float:
    """Of the largest golden batch."""
    case = golden.cases[max(golden.cases)]
    made = runner.infer(dict(case.inputs))
    found = [compare(truth, made[name]).snr_db for name, truth in case.outputs.items()]
    assert None not in found
    return min(value for value in found if value is not None)


def rows_of(report: ParityReport) -> list[dict[str, Any]]:
    """What of a report's rows is worth keeping."""
    return [
        {"check": row.check, "snr_db": row.comparison.snr_db, "passed": row.passed, "problem": row.comparison.problem}
        for row in report.rows
    ]


def check_repeats(runner: Runner, golden: Golden) -> None:
    """All golden batches in turn through one context, again and again: not a bit may differ."""
    first = {size: runner.infer(dict(case.inputs)) for size, case in golden.cases.items()}
    assert len(first) > 1
    for _ in range(REPEATS):
        for size, case in golden.cases.items():
            for name, values in runner.infer(dict(case.inputs)).items():
                np.testing.assert_array_equal(values, first[size][name])


def check_on_device(runner: Runner, golden: Golden) -> None:
    """All golden batches through tensors that stay on the GPU: the host's numbers, with graphs and without."""
    assert isinstance(runner, DeviceRunner)
    for _ in range(2):  # shapes are left, and come back
        for case in golden.cases.values():
            held = {name: runner.upload(array) for name, array in case.inputs.items()}
            wanted = runner.infer(dict(case.inputs))
            for _ in range(3):  # the third call of a shape may be a graph
                made = runner.infer_on_device(held)
                assert equal({name: tensor.numpy() for name, tensor in made.items()}, wanted)


def check_carried(runner: Runner, golden: Golden) -> None:
    """A model's output as its next input, on the GPU and through the host: the same numbers."""
    case = golden.cases[max(golden.cases)]
    times = np.stack([np.full_like(case.inputs["t"], value) for value in np.linspace(1, 0.2, 6)])
    fixed = {name: array for name, array in case.inputs.items() if name != "t"}
    call, here, x = stepping(runner), fixed["x"], fixed["x"]
    for t in times:
        here = call({**fixed, "x": here, "t": t})["out"]
        x = runner.infer({**fixed, "x": x, "t": t})["out"]
    np.testing.assert_array_equal(np.asarray(here), x)


def memory_growth(runner: Runner, golden: Golden) -> int:
    """Bytes of device memory that `MANY` calls took and did not give back, after a few that may keep some."""
    inputs = golden.cases[max(golden.cases)].inputs
    for _ in range(WARM_UP):
        runner.infer(dict(inputs))
    before = free_memory()
    for _ in range(MANY):
        runner.infer(dict(inputs))
    return before - free_memory()


def free_memory() -> int:
    """Bytes of the first device, asked of the driver: it must not take a framework to know them."""
    driver = ctypes.CDLL(_DRIVER)
    device, context = ctypes.c_int(), ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    assert driver.cuInit(0) == 0
    assert driver.cuDeviceGet(ctypes.byref(device), 0) == 0
    assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
    try:
        assert driver.cuCtxPushCurrent_v2(context) == 0
        assert driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
        assert driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p())) == 0
    finally:
        assert driver.cuDevicePrimaryCtxRelease_v2(device) == 0
    return free.value


def equal(first: dict[str, Array], second: dict[str, Array]) -> bool:
    """Whether the arrays are the same, bit for bit."""
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)
