"""TensorRT 10 or 11 itself, where it is installed: whether what its inspector tells is understood at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsr_export.backends.tensorrt.build import build_engine
from dsr_export.config import BatchRange
from tests.backends import tiny_models
from tests.gpu.engine_kinds import engine_kind, opened_here

pytestmark = pytest.mark.gpu


def test_an_engine_of_tensorrt_tells_its_schedule(tmp_path: Path, capability: str) -> None:
    """The reader was written after public files. A failure here names what it does not know yet."""
    where = opened_here(engine_kind("tensorrt", capability)).target
    path = tiny_models.linear(tmp_path, width=256, half=True)
    facts = build_engine(path, where, batch=BatchRange(1, 2, 4), inputs=tiny_models.specs(path)).facts
    assert facts["schedule_problem"] is None
    told = facts["schedule"]
    assert told["gemms"][0]["computes"] == "float16"
    weight, batch = 256 * 256 * 2, 2 * 256
    assert weight + batch * (4 + 4) <= told["moved_bytes"] <= weight + batch * 40
