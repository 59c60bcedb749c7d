"""TensorRT 10 or 11 itself, where it is installed: whether what its inspector tells is understood at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsr_export.backends.tensorrt.build import build_engine
from dsr_export.backends.tensorrt.vendor import installed_version
from dsr_export.config import BatchRange
from graphs.targets import target
from tests.backends import tiny_models

pytestmark = pytest.mark.gpu


def test_an_engine_of_tensorrt_tells_its_schedule(tmp_path: Path) -> None:
    """The reader was written after public files. A failure here names what it does not know yet."""
    version = installed_version("tensorrt")
    if version is None:
        pytest.skip("needs the package tensorrt")
    where = target("trt11" if target("trt11").accepts_version(version) else "trt10")
    path = tiny_models.linear(tmp_path, width=256, half=True)
    facts = build_engine(path, where, batch=BatchRange(1, 2, 4), inputs=tiny_models.specs(path)).facts
    assert facts["schedule_problem"] is None
    told = facts["schedule"]
    assert told["gemms"][0]["computes"] == "float16"
    weight, batch = 256 * 256 * 2, 2 * 256
    assert weight + batch * (4 + 4) <= told["moved_bytes"] <= weight + batch * 40
