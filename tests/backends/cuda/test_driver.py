"""The driver's functions that are called by name are those of NVIDIA's bindings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dsr_export.backends import cuda
from tests.backends.tensorrt.driver_stand_in import Driver


def names() -> set[str]:
    folder = Path(str(cuda.__file__)).parent
    return {name for path in folder.glob("*.py") for name in re.findall(r"\bcu[A-Z][a-z]\w+", path.read_text())}


def test_the_bindings_have_every_function_that_is_called() -> None:
    driver = pytest.importorskip("cuda.bindings.driver", reason="needs the rtx extra")
    assert len(names()) > 20
    assert [name for name in names() if not hasattr(driver, name)] == []
    assert int(driver.CUstreamCaptureMode(1)) == int(driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)


def test_the_stand_in_has_them_too() -> None:
    assert [name for name in names() if not hasattr(Driver, f"_{name}")] == []
