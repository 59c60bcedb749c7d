"""The one module that imports Ray: connects to a cluster, checks it, and runs commands as tasks."""

from __future__ import annotations

import importlib.util
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from dsr_export.cluster.request import Resources
from dsr_export.cluster.storage import Damaged, Storage
from dsr_export.cluster.worker import THREADS, Done, Job, finished, run_job, seen
from dsr_export.errors import ExportError
from dsr_export.storage.made_with import source_digest
from dsr_export.version import __version__

RETRIES = 3  # of a task whose worker is lost
ANSWERS_WITHIN = 30.0  # seconds
_AUTH = "RAY_AUTH_MODE"
_ADDRESS = "start one with `ray start --head`, or leave --address out for one on this machine"


class Cluster:
    """A connection. `storage` is what its machines share."""

    def __init__(self, ray: Any, near: Any, storage: Storage) -> None:
        self._ray, self._near, self.storage = ray, near, storage
        self._job = ray.remote(max_retries=RETRIES, retry_exceptions=False)(run_job)

    def run(self, job: Job, needs: Resources) -> Done:
        """Waits for a place and for the end. What is in the storage already is not run again.

        Raises ExportError where workers are lost again and again, and where no machine has what the job needs.
        """
        if (known := finished(self.storage, job.record)) is not None:
            return known
        self._check_place(needs)
        task = self._job.options(**_options(needs))
        try:
            done: Done = self._ray.get(task.remote(replace(job, threads=os.environ.get(THREADS)), self.storage.url))
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, ExportError) else None
            said = cause.message if cause else str(error.cause or error).strip().splitlines()[-1]
            raise ExportError(f"a worker failed: {said}", hint=cause.hint if cause else "see its log") from error
        except (ValueError, TypeError) as error:
            raise ExportError(
                f"Ray does not take what is asked of machines: {error}", hint="see [[resources]]"
            ) from error
        except self._ray.exceptions.RayError as error:
            first = str(error).strip().splitlines()[0]
            raise ExportError(
                f"the worker was lost, and so was its place: {first[:300]}",
                hint="its machine is gone, or out of memory: [[resources]] says what a cell needs",
            ) from error
        return done

    def brought(self, job: Job, needs: Resources, take: Callable[[Done], None]) -> Done:
        """As `run`, and what it made is taken; where that is not as it was left, it is made once more."""
        done = self.run(job, needs)
        try:
            take(done)
        except Damaged:
            self.storage.drop_record(job.record)
            done = self.run(job, needs)
            take(done)
        return done

    def cpus(self) -> int:
        """Of all machines."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def check(self) -> None:
        """Raises ExportError where a machine has another version, or does not read what is written to the storage."""
        token = f"probes/{secrets.token_hex(8)}"
        self.storage.put_record(token, {"token": token})
        probe = self._ray.remote(max_retries=1, num_cpus=0)(seen)
        for node in self._ray.nodes():
            if not node["Alive"]:
                continue
            where = node["NodeManagerAddress"]
            near = self._near(node["NodeID"], soft=False)
            self._check_node(probe.options(scheduling_strategy=near).remote(self.storage.url, token), where, token)

    def _check_node(self, asked: Any, where: str, token: str) -> None:
        try:
            found = self._ray.get(asked, timeout=4 * ANSWERS_WITHIN)
        except self._ray.exceptions.GetTimeoutError as error:
            raise ExportError(f"the worker {where} does not answer", hint="`ray status` shows what it does") from error
        except self._ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            said = cause.message if isinstance(cause, ExportError) else str(cause or error).strip().splitlines()[-1]
            raise ExportError(
                f"the worker {where} can't take part: {said[:300]}",
                hint=f"install dsr-export {__version__} there, and a storage that it reaches",
            ) from error
        if found["version"] != [__version__, source_digest()]:
            raise ExportError(
                f"the worker {where} has another dsr-export ({found['version'][0]}) than this ({__version__})",
                hint="install the same version everywhere, where the Python of the cluster finds it",
            )
        if found["record"] != {"token": token}:
            raise ExportError(
                f"the worker {where} does not see what is written to {self.storage.url}",
                hint="give --storage a path or URL that all machines share",
            )

    def _check_place(self, needs: Resources) -> None:
        """A task that fits nowhere would wait for ever."""
        asked = {"CPU": needs.cpus, "GPU": needs.gpus, "memory": needs.memory or 0, **needs.custom}
        if needs.accelerator:
            asked[f"accelerator_type:{needs.accelerator}"] = 0.001
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= count for name, count in asked.items()) for node in nodes):
            said = ", ".join(f"{name} {count:g}" for name, count in asked.items() if count)
            raise ExportError(f"no machine of the cluster has {said}", hint="see `ray status`, or ask for less")


@contextmanager
def connected(address: str | None, storage: Storage) -> Iterator[Cluster]:
    """A checked cluster: that at `address`, or one that is started on this machine and ends with the block.

    Raises ExportError where Ray is missing, nothing answers, and as `Cluster.check`.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if importlib.util.find_spec("ray") is None:
        raise ExportError("the package 'ray' is missing", hint="pip install 'dsr-export[fleet]'")
    if address is not None:
        _check_answers(address)
    import ray  # which reads the environment now
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    before = signal.getsignal(signal.SIGTERM)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    try:
        if address is None:
            quiet["include_dashboard"] = False
        ray.init(address or "local", **quiet)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ExportError(f"no connection to a Ray cluster: {first[:300]}", hint=_ADDRESS) from error
    with suppress(ValueError):  # a thread that is not the main one has no handlers
        signal.signal(signal.SIGTERM, before)
    try:
        cluster = Cluster(ray, NodeAffinitySchedulingStrategy, storage)
        cluster.check()
        yield cluster
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Ray ends the process where nothing answers, after minutes."""
    if address == "auto":
        return
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        if not parts.hostname or parts.port is None:
            raise ExportError(f"--address {address!r} is no HOST:PORT", hint="for example 10.0.0.5:6379, or auto")
        socket.create_connection((parts.hostname, parts.port), timeout=5).close()
    except (OSError, ValueError) as error:
        raise ExportError(f"nothing answers at {address}: {error}", hint=_ADDRESS) from error
    if parts.scheme == "ray":
        return
    given = os.environ.get(_AUTH)
    if (said := _unhealthy(address, given)) is not None and given is None and _unhealthy(address, "token") is None:
        os.environ[_AUTH], said = "token", None  # what `ray start` asks for by itself, and a driver does not
    if said is not None:
        raise ExportError(f"what answers at {address} is no Ray cluster that takes us in{said}", hint=_ADDRESS)


def _unhealthy(address: str, authentication: str | None) -> str | None:
    """Why no cluster answers there, in a process of its own: None where one does."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    own = {} if authentication is None else {_AUTH: authentication}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=ANSWERS_WITHIN,
            check=False,
            env={**os.environ, **own},
        )
    except subprocess.TimeoutExpired:
        return ""
    if done.returncode == 0:
        return None
    last = done.stderr.strip().splitlines()[-1:] or [""]
    return f": {last[0][:200]}" if last[0] else ""


def _options(needs: Resources) -> dict[str, Any]:
    asked: dict[str, Any] = {"num_cpus": needs.cpus, "num_gpus": needs.gpus}
    if needs.memory:
        asked["memory"] = needs.memory
    if needs.accelerator:
        asked["accelerator_type"] = needs.accelerator
    return {**asked, "resources": dict(needs.custom)} if needs.custom else asked
