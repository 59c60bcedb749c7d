"""Summaries of a matrix go over nothing that is read."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest

from tests.conftest import Cli

MATRIX = """
[matrix]
target = ["onnxruntime"]
include = [
  { model = "digits", checkpoint = "w.safetensors", dsr = "dsr.toml", component = "d.dsr" },
  { model = "digits", precision = "int8", calibration = "cal.npz" },
  { model = "digits", precision = "int8", calibration-table = "t.json", batch = "1,1,1" },
  { model = "digits", precision = "int8", calibration-parts = "parts", batch = "1,1,2" },
  { model-dir = "m", lora = "a.safetensors:0.5" },
  { model = "g.onnx" },
  { config = "stage.yaml" },
  { model = "rae-decoder", random-weights = 0, latent-stats = "s.pt" },
]
"""
FILES = (
    *("fleet.toml", "w.safetensors", "dsr.toml", "in/r.safetensors", "r.safetensors", "d.dsr/x", "cal.npz", "t.json"),
    *("parts/x", "m/config.json", "a.safetensors", "g.onnx", "g.bin", "stage.yaml", "ckpt.pt", "s.pt"),
    *("fleet/x", "soft", "linked/r.safetensors"),
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A matrix, and all that it reads."""
    monkeypatch.chdir(tmp_path)
    for name in ("in", "d.dsr", "parts", "m", "fleet"):
        (tmp_path / name).mkdir()
    for name in FILES[:-2]:
        (tmp_path / name).write_text("read")
    weights = onnx.helper.make_tensor("w", 1, [4], bytes(16), raw=True)
    graph = onnx.parser.parse_graph("g (float[4] x) => (float[4] y) { y = Add(x, w) }")
    graph.initializer.append(weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    (tmp_path / "g.bin").unlink()
    onnx.save_model(model, "g.onnx", save_as_external_data=True, location="g.bin", size_threshold=0)
    site = '[[denoiser.replace]]\nlayers = [1]\nrule = "median"\nthreshold = 4.0\nregisters = "in/r.safetensors"\n'
    (tmp_path / "dsr.toml").write_text(f'[denoiser]\nregister_file = "r.safetensors"\n{site}')
    from tests.sources.test_released_yaml import TEXT

    (tmp_path / "stage.yaml").write_text(TEXT.replace("no/such/folder", "ckpt.pt"))
    (tmp_path / "fleet.toml").write_text(MATRIX)
    (tmp_path / "soft").symlink_to("t.json")
    (tmp_path / "linked").symlink_to("in")
    return tmp_path


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("option", ["--html", "--markdown"])
def test_a_summary_is_written_over_nothing_that_is_read(option: str, folder: Path, cli: Cli) -> None:
    before = _contents(folder)
    for name in FILES:
        done = cli("build", "--matrix", "fleet.toml", option, name)
        assert done.code == 1, (name, done.err)
        assert re.search(rf"{option} {re.escape(name)} (is|lies in) [^,]+, which is left as it is\n", done.err), (
            done.err
        )
    assert _contents(folder) == before


def test_one_file_for_both_summaries_is_refused_as_before(folder: Path, cli: Cli) -> None:
    done = cli("build", "--matrix", "fleet.toml", "--html", "new", "--markdown", "new")
    assert done.code == 1 and "same file" in done.err and not (folder / "new").exists()
