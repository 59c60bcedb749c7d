"""A real matrix, its driver killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
MATRIX = """
[matrix]
model = ["digits", "digits-outliers"]
precision = ["fp32", "fp16"]
target = ["onnxruntime", "jetson-orin"]
batch = "1,2,2"
trajectory-steps = 3
exclude = [{ target = "jetson-orin", precision = "fp32" }, { target = "jetson-orin", model = "digits-outliers" }]
"""


@pytest.mark.skipif(sys.platform != "linux", reason="builds end with their driver on Linux")
def test_a_killed_driver_goes_on_and_repeats_nothing(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text(MATRIX)
    command = [sys.executable, "-m", "dsr_export", "build", "--matrix", "fleet.toml", "--json"]
    driver = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first = tmp_path / "fleet" / "receipts" / "digits-fp32-onnxruntime.json"
    while not first.exists():
        assert driver.poll() is None
        time.sleep(0.2)
    time.sleep(1)  # into the second cell
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    before = first.stat().st_mtime_ns
    done = subprocess.run([*command, "--resume"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout, done.stderr
    verdicts = {cell["cell"]: cell["verdict"] for cell in json.loads(done.stdout)["cells"]}
    assert list(verdicts.values()).count("passed") == 4
    assert verdicts["digits-fp16-jetson-orin"] == "not built"
    assert first.stat().st_mtime_ns == before
