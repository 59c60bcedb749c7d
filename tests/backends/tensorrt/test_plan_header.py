from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from dsr_export.backends.tensorrt.plan_header import is_recognised, plan_problem


def plan_bytes(tag: bytes = b"vtrt", version: tuple[int, ...] = (1, 7, 1, 116), size: int = 64) -> bytes:
    """As TensorRT-RTX 1.7 begins a plan."""
    return (tag + struct.pack("<IQQ", 0, 2, size) + bytes(version)).ljust(64, b"\0")


@pytest.mark.parametrize(
    ("data", "backend", "version", "problem"),
    [
        (plan_bytes(), "tensorrt_rtx", "1.7.1.116", None),
        (plan_bytes(), "tensorrt_rtx", "1.7.1", None),
        (plan_bytes(b"ftrt", (10, 3, 0, 26)), "tensorrt", "10.3.0", None),
        (plan_bytes(b"ftrt", (10, 3, 0, 26), size=7), "tensorrt", "10.3.0.26", None),
        (plan_bytes(b"new!", (10, 3, 0, 26)), "tensorrt", "10.3.0", None),
        (b"garbage" * 50, "tensorrt", "10.3.0", "was made by version"),
        (plan_bytes(), "tensorrt", "10.3.0", "no plan of tensorrt"),
        (plan_bytes(b"ftrt"), "tensorrt_rtx", "1.7.1", "no plan of tensorrt_rtx"),
        (plan_bytes(), "tensorrt_rtx", "1.4.0.76", r"version 1\.7\.1\.116, and the manifest says 1\.4\.0\.76"),
        (plan_bytes(), "tensorrt_rtx", "unknown", "the manifest says unknown"),
        (plan_bytes(size=65), "tensorrt_rtx", "1.7.1", "has 64 bytes, and its header says 65"),
        (plan_bytes()[:27], "tensorrt_rtx", "1.7.1", "no plan of"),
        (b"", "tensorrt_rtx", "1.7.1", "no plan of"),
        (b"garbage" * 50, "tensorrt_rtx", "1.7.1", "no plan of"),
        (plan_bytes(), "onnxruntime", "1.31", "no plan of onnxruntime"),
    ],
)
def test_only_a_plan_of_its_backend_and_version_fits(
    data: bytes, backend: str, version: str, problem: str | None, tmp_path: Path
) -> None:
    (tmp_path / "x.plan").write_bytes(data)
    found = plan_problem(tmp_path / "x.plan", backend, version)
    assert found is None if problem is None else found is not None and re.search(problem, found)


def test_a_plan_that_begins_unlike_those_that_are_known_is_not_recognised(tmp_path: Path) -> None:
    plan = tmp_path / "x.plan"
    for data, backend, known in (
        (plan_bytes(b"new!", (10, 3, 0, 26)), "tensorrt", False),
        (plan_bytes(b"ftrt", (10, 3, 0, 26)), "tensorrt", True),
        (plan_bytes(), "tensorrt_rtx", True),
    ):
        plan.write_bytes(data)
        assert is_recognised(plan, backend) is known
