"""A real Ray cluster of two workers on this machine."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dsr_export.cluster import ray_driver
from dsr_export.cluster.ray_driver import Cluster, connected
from dsr_export.cluster.request import Resources
from dsr_export.cluster.storage import Storage
from dsr_export.cluster.worker import Job
from dsr_export.errors import ExportError
from tests.cli_words import TINY

ray = pytest.importorskip("ray", reason="needs the fleet extra")
psutil = pytest.importorskip("psutil", reason="comes with accelerate")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with connected(None, Storage(str(tmp_path / "storage"))) as made:
        yield made


@pytest.mark.slow
def test_a_job_whose_worker_is_killed_is_run_again_and_then_kept(cluster: Cluster, tmp_path: Path) -> None:
    job = Job(words=("build", *TINY), folder=str(tmp_path), record="run/one", kept="folder")
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.append(cluster.run(job, Resources())))
    waiting.start()
    killed = _kill_a_busy_worker()
    waiting.join(timeout=240)
    done = found[0]
    assert done.exit_code == 0 and "manifest.json" in done.files, done.log
    assert not killed.is_running()
    cluster.storage.get_folder(done.files, tmp_path / "home.dsr")
    assert (tmp_path / "home.dsr" / "model.onnx").stat().st_size > 1000
    for path in (tmp_path / "storage" / "objects").rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged")
    taken = cluster.brought(job, Resources(), lambda made: cluster.storage.get_folder(made.files, tmp_path / "new.dsr"))
    assert taken.files.keys() == done.files.keys() and (tmp_path / "new.dsr" / "model.onnx").is_file()
    done = taken
    again = cluster.run(replace(job, words=("no", "such", "command")), Resources())  # its record is what counts
    assert again == done
    with pytest.raises(ExportError, match=r"no machine of the cluster has CPU 1, GPU 1") as caught:
        cluster.run(replace(job, record="run/two"), Resources(gpus=1))
    assert "ray status" in str(caught.value.hint)
    elsewhere = Cluster(ray, cluster._near, Storage("memory://each-process-has-its-own"))
    with pytest.raises(ExportError, match="does not see what is written to memory://"):
        elsewhere.check()


def _kill_a_busy_worker() -> Any:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        for process in psutil.process_iter(["name"]):
            if "run_job" in (process.info["name"] or "") and process.children():
                process.kill()
                return process
        time.sleep(0.1)
    raise AssertionError("no worker took the job")


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nowhere", "ray://127.0.0.1:9", "no-such-host.invalid:6379"])
def test_an_address_where_nothing_answers_is_said(address: str, tmp_path: Path) -> None:
    with (
        pytest.raises(ExportError, match=r"nothing answers at|is no HOST:PORT"),
        connected(address, Storage(str(tmp_path))),
    ):
        raise AssertionError("connected")


def test_another_service_at_the_address_is_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_driver, "ANSWERS_WITHIN", 3.0)
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with (
            pytest.raises(ExportError, match="no Ray cluster that takes us in"),
            connected(f"127.0.0.1:{server.server_port}", Storage(str(tmp_path))),
        ):
            raise AssertionError("connected")
    finally:
        server.shutdown()
        server.server_close()
