"""Whatever a cell reads counts by content: a bundle made of other files is not taken for what is asked now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dsr_export.cluster import ray_driver
from dsr_export.fleet import building
from dsr_export.fleet.checking import cell_configs, check_cells
from dsr_export.fleet.command import built_fleet
from dsr_export.fleet.matrix import read_matrix
from dsr_export.fleet.request import FleetRequest
from dsr_export.progress import Silent
from graphs import digests
from tests.fleet.test_building import Builder
from tests.fleet.test_on_cluster import _Cluster
from tests.pipeline_parts import rewritten
from tests.sources.test_released_yaml import TEXT

INT8 = 'precision = "int8"\n'
FILES = {  # of a cell: its options, and the file among them that changes
    "checkpoint": ('model = ["digits"]\ncheckpoint = "it"\n', "it"),
    "program": ('model = ["it.pt2"]\n', "it.pt2"),
    "calibration": (INT8 + 'model = ["digits"]\ncalibration = "it.npz"\n', "it.npz"),
    "calibration folder": (INT8 + 'model = ["digits"]\ncalibration = "in"\n', "in/it.npz"),
    "calibration table": (INT8 + 'model = ["digits"]\ncalibration-table = "it.json"\n', "it.json"),
    "calibration parts": (INT8 + 'model = ["digits"]\ncalibration-parts = "in"\n', "in/share-1-of-1/part.json"),
    "statistics": ('model = ["rae-decoder"]\nlatent-stats = "it"\nrandom-weights = 0\n', "it"),
    "declaration": ('model = ["digits"]\ndsr = "dsr.toml"\n', "dsr.toml"),
    "registers": ('model = ["digits"]\ndsr = "dsr.toml"\n', "r.safetensors"),
    "configuration": ('config = "stage.yaml"\nrandom-weights = [0]\n', "stage.yaml"),
}


def _written(folder: Path, options: str, name: str) -> Path:
    """What a cell with these options reads, and the file of it that is named."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"one")
    (folder / "dsr.toml").write_text('[denoiser]\nregister_file = "r.safetensors"\n')
    (folder / "r.safetensors").write_bytes(b"rows")
    (folder / "stage.yaml").write_text(TEXT)
    (folder / "fleet.toml").write_text(f"[matrix]\n{options}")
    return file


def _sources(folder: Path) -> dict[str, str]:
    return check_cells(cell_configs(read_matrix(folder / "fleet.toml")))


@pytest.mark.parametrize(("options", "name"), FILES.values(), ids=FILES.keys())
def test_a_file_that_a_cell_reads_counts_by_content(
    options: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = _written(tmp_path, options, name)
    before, content = _sources(tmp_path), file.read_bytes()
    file.write_bytes(content + b"\n#")
    assert _sources(tmp_path).keys() == before.keys() and _sources(tmp_path) != before
    file.write_bytes(content)
    assert _sources(tmp_path) == before


def test_a_component_and_an_adapter_count_by_content(
    decoder_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("diffusers", reason="the models extra is not installed")
    from tests.families.diffusers.folders import original

    monkeypatch.chdir(tmp_path)
    original("DiTTransformer2DModel").save_pretrained(tmp_path / "m")
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    (tmp_path / "d.dsr").symlink_to(decoder_bundle)
    options = 'model-dir = "m"\nlora = "a.safetensors:0.5"\nprecision = ["fp32"]\ncomponent = "d.dsr"\n'
    (tmp_path / "fleet.toml").write_text(f"[matrix]\n{options}")
    found = [_sources(tmp_path)]
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    found.append(_sources(tmp_path))
    rewritten(decoder_bundle, tmp_path / "other.dsr", provenance={"random_seed": 2})
    (tmp_path / "d.dsr").unlink()
    (tmp_path / "d.dsr").symlink_to("other.dsr")
    found.append(_sources(tmp_path))
    assert len({str(each) for each in found}) == 3


def test_a_file_of_many_cells_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix has hundreds of cells, and a checkpoint tens of gigabytes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w").write_bytes(b"weights")
    text = '[matrix]\nmodel = ["digits"]\ncheckpoint = "w"\nprecision = ["fp32", "fp16"]\nbatch = ["1,1,1", "1,1,2"]\n'
    (tmp_path / "fleet.toml").write_text(text)
    read: list[Path] = []
    _counted(monkeypatch, read)
    assert len(_sources(tmp_path)) == 4
    assert [path.name for path in read].count("w") == 1


def _counted(monkeypatch: pytest.MonkeyPatch, read: list[Path]) -> None:
    real = digests.files_digest

    def counted(paths: Any) -> str:
        read.extend(paths := list(paths))
        return real(paths)

    monkeypatch.setattr("dsr_export.families.digests.files_digest", counted)


@contextmanager
def _here(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """Cells are built by the stand-in, of which the count of calls is given."""
    monkeypatch.setattr(building, "build_here", builder)
    yield lambda: len(builder.called)


@contextmanager
def _far(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    cluster = _Cluster(Path.cwd(), builder.bundle)
    monkeypatch.setattr(ray_driver, "connected", contextmanager(lambda *_: iter([cluster])))
    yield lambda: len({job.record for job in cluster.jobs})


@pytest.mark.parametrize(("kind", "stand_in"), [("local", _here), ("ray", _far)])
def test_a_resumed_run_builds_again_what_reads_another_file(
    kind: Any, stand_in: Any, denoiser_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dsr_export.cluster.request import ExecutorRequest

    monkeypatch.chdir(tmp_path)
    options, name = FILES["calibration"]
    file = _written(tmp_path, options, name)
    asked = FleetRequest(matrix=Path("fleet.toml"), resume=True, executor=ExecutorRequest(kind=kind))
    with stand_in(Builder(denoiser_bundle), monkeypatch) as made:
        for content, times in ((b"one", 1), (b"one", 1), (b"two", 2), (b"two", 2)):
            file.write_bytes(content)
            (receipt,) = built_fleet(asked, Silent())
            assert (receipt.verdict, made()) == ("passed", times)
