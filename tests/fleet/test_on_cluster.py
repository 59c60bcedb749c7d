"""Cells on a cluster: bundles come home, what was finished is not built again, and a kill costs one cell's time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dsr_export.cluster.storage import Storage
from dsr_export.cluster.worker import Done
from dsr_export.errors import ExportError
from dsr_export.fleet.building import build_cells
from dsr_export.fleet.matrix import Cell
from dsr_export.fleet.on_cluster import ClusterBuilder, run_name
from dsr_export.progress import Silent
from tests.conftest import Cli
from tests.fleet.test_whole import MATRIX


class _Cluster:
    """Has built a bundle for every job; `run` raises where told."""

    def __init__(self, folder: Path, bundle: Path, error: ExportError | None = None) -> None:
        self.storage, self.bundle, self.error = Storage(str(folder / "storage")), bundle, error
        self.jobs: list[Any] = []

    def brought(self, job: Any, needs: Any, take: Any) -> Done:
        take(done := self.run(job))
        return done

    def run(self, job: Any) -> Done:
        self.jobs.append(job)
        if self.error is not None:
            raise self.error
        answer = (self.bundle / "report.json").read_text()
        return Done(exit_code=0, answer=answer, log="log", host="far", files=self.storage.put_folder(self.bundle))


def _built(folder: Path, cluster: _Cluster) -> Any:
    builder = ClusterBuilder(cluster, run_name(folder, resume=True), "/where")  # type: ignore[arg-type]
    cells = [Cell("good", {"model": "digits"})]
    return build_cells(cells, folder, resume=True, jobs=1, shown=Silent(), build=builder)[0]


def test_a_bundle_comes_home_whole(denoiser_bundle: Path, tmp_path: Path) -> None:
    cluster = _Cluster(tmp_path, denoiser_bundle)
    receipt = _built(tmp_path / "out", cluster)
    assert receipt.verdict == "passed" and receipt.digest
    (job,) = cluster.jobs
    assert "--out" not in job.words and job.words[:2] == ("build", "digits") and job.folder == "/where"
    assert (tmp_path / "out" / "logs" / "good.log").read_text().startswith("on far\n")
    assert _built(tmp_path / "out", cluster) == receipt and len(cluster.jobs) == 1  # its receipt is enough


def test_a_run_has_one_name_and_another_command_another_record(denoiser_bundle: Path, tmp_path: Path) -> None:
    first = run_name(tmp_path, resume=True)
    assert first == run_name(tmp_path, resume=True) != run_name(tmp_path / "other", resume=True)
    assert run_name(tmp_path, resume=False) != first  # nothing of an earlier run is brought home
    cluster = _Cluster(tmp_path, denoiser_bundle)
    builder = ClusterBuilder(cluster, "run", "/where")  # type: ignore[arg-type]
    for words in (["build", "a"], ["build", "b"], ["build", "a"]):
        builder(Cell("c", {}), [*words, "--out", str(tmp_path / "x.dsr")], tmp_path / "log")
    builder = ClusterBuilder(cluster, "run", "/where", {"c": "another model"})  # type: ignore[arg-type]
    builder(Cell("c", {}), ["build", "a", "--out", str(tmp_path / "x.dsr")], tmp_path / "log")
    assert cluster.jobs.pop().record != cluster.jobs[0].record
    first, second, third = (job.record for job in cluster.jobs)
    assert first == third != second and first.startswith("run/")


def test_a_cell_that_no_machine_takes_is_a_receipt(denoiser_bundle: Path, tmp_path: Path) -> None:
    error = ExportError("no machine of the cluster has GPU 1", hint="ask for less")
    receipt = _built(tmp_path / "out", _Cluster(tmp_path, denoiser_bundle, error))
    assert (receipt.verdict, receipt.error) == ("not built", "no machine of the cluster has GPU 1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["digits", "--executor", "ray"], "--executor goes with --matrix"),
        (["--matrix", "fleet.toml", "--address", "a:1"], "--address goes with --executor ray"),
        (["--matrix", "fleet.toml", "--storage", "s"], "--storage goes with --executor ray"),
    ],
)
def test_options_of_an_executor_need_one(words: list[str], said: str, cli: Cli) -> None:
    done = cli("build", *words)
    assert done.code == 2 and said in done.err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="builds end with their worker on Linux")
def test_a_killed_worker_and_a_killed_driver_cost_no_finished_cell(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the fleet extra")
    (tmp_path / "fleet.toml").write_text(MATRIX)
    command = [sys.executable, "-m", "dsr_export", "build", "--matrix", "fleet.toml", "--executor", "ray", "--json"]
    driver = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _kill_a_busy_worker(driver)
    receipts = tmp_path / "fleet" / "receipts"
    while not receipts.is_dir() or len(list(receipts.iterdir())) < 3:
        assert driver.poll() is None
        time.sleep(0.2)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    before = {path.name: path.stat().st_mtime_ns for path in receipts.iterdir() if "jetson" not in path.name}
    done = subprocess.run([*command, "--resume"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    verdicts = [cell["verdict"] for cell in json.loads(done.stdout)["cells"]]
    assert sorted(verdicts) == ["not built", *["passed"] * 4]
    assert before == {name: (receipts / name).stat().st_mtime_ns for name in before}
    assert not list(tmp_path.rglob("*.tmp"))


def _kill_a_busy_worker(driver: Any) -> None:
    import psutil

    while driver.poll() is None:
        for process in psutil.process_iter(["name"]):
            if "run_job" in (process.info["name"] or "") and process.children():
                time.sleep(1)
                process.kill()
                return
        time.sleep(0.1)
    raise AssertionError("the driver ended")
