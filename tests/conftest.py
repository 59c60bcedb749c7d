"""Fixtures of the whole suite."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

if importlib.util.find_spec("hypothesis") is not None:  # a device may lack it
    import hypothesis

    # The first call of an operator takes a second on a busy machine: a deadline would fail whoever comes first.
    hypothesis.settings.register_profile("any-machine", deadline=None)
    hypothesis.settings.load_profile("any-machine")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def pytest_configure(config: pytest.Config) -> None:
    """Each process of a run keeps to one core: two that start a thread per core each wait for one another."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and hasattr(os, "sched_setaffinity"):
        usable = sorted(os.sched_getaffinity(0))
        if len(usable) >= int(os.environ["PYTEST_XDIST_WORKER_COUNT"]):
            number = int(worker.removeprefix("gw"))  # one that took the place of another has a higher one
            os.sched_setaffinity(0, {usable[number % len(usable)]})


@pytest.fixture(scope="session", autouse=True)
def one_table_of_operators() -> Iterator[None]:
    """The exporter makes its table anew for every trace, which is half of a small module's time."""
    if importlib.util.find_spec("onnxscript") is None:  # a device, which traces nothing
        yield
        return
    import onnxscript._framework_apis.torch_2_8 as exporter_tables

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter_tables, "get_torchlib_ops", functools.cache(exporter_tables.get_torchlib_ops))
        yield


@pytest.fixture(scope="session", autouse=True)
def stage_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One stage cache for all processes of the run and none of the user's: builds in tests share their traces."""
    before = os.environ.get("DSR_EXPORT_CACHE")
    shared = tmp_path_factory.getbasetemp()
    folder = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / "stage-cache"
    folder.mkdir(exist_ok=True)
    os.environ["DSR_EXPORT_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["DSR_EXPORT_CACHE"]
    else:
        os.environ["DSR_EXPORT_CACHE"] = before


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code, and what it printed."""

    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs the command line in this process."""
    from dsr_export.cli import main

    def run(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Outcome(int(stopped.value.code or 0), printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def digits_bundle(tmp_path_factory: pytest.TempPathFactory, stage_cache: Path) -> Path:
    """The packaged model in FP16, built once; tests copy it before they change anything."""
    from dsr_export.config import ExportConfig
    from dsr_export.pipeline import export

    out = tmp_path_factory.mktemp("bundles") / "digits.dsr"
    return export(ExportConfig(precision="fp16", out=out)).path


@pytest.fixture(scope="session")
def decoder_bundle(tmp_path_factory: pytest.TempPathFactory, stage_cache: Path) -> Path:
    """A tiny decoder with random weights, for pixels as DINOv2 takes them."""
    from dsr_export.pipeline import export
    from tests.pipeline_parts import decoder_config

    return export(decoder_config(tmp_path_factory.mktemp("bundles") / "decoder.dsr")).path


@pytest.fixture(scope="session")
def denoiser_bundle(tmp_path_factory: pytest.TempPathFactory, stage_cache: Path) -> Path:
    """A tiny latent denoiser with random weights, alone."""
    from dsr_export.pipeline import export
    from tests.pipeline_parts import denoiser_config

    return export(denoiser_config(tmp_path_factory.mktemp("bundles") / "denoiser.dsr")).path


@pytest.fixture(scope="session")
def pipeline_bundle(tmp_path_factory: pytest.TempPathFactory, decoder_bundle: Path) -> Path:
    """The same denoiser with its decoder."""
    from dsr_export.pipeline import export
    from tests.pipeline_parts import denoiser_config

    return export(denoiser_config(tmp_path_factory.mktemp("bundles") / "pipeline.dsr", decoder_bundle)).path
