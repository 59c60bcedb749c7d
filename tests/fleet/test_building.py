"""Receipts of cells: what was built is not built again, and what failed is told."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from dsr_export.bundle.reader import Bundle
from dsr_export.cluster.commands import Ended, run_command
from dsr_export.errors import ExportError
from dsr_export.fleet.building import build_cells
from dsr_export.fleet.matrix import Cell
from dsr_export.fleet.receipts import Receipt, read_receipt, receipt_path
from dsr_export.fleet.summary import exit_code, summary_dict, summary_lines, summary_markdown, summary_page
from dsr_export.progress import Silent
from dsr_export.storage.disk import this_machine
from dsr_export.storage.locks import exclusive
from tests.conftest import Cli

CELLS = tuple(Cell(name, {"model": name}) for name in ("good", "bad", "dead", "off"))
ENDS = {"good": 0, "bad": 1, "dead": -9, "off": 3}


class Builder:
    """Copies a bundle for cells that are built; the code of its end is by the cell's name."""

    def __init__(self, bundle: Path) -> None:
        self.bundle = bundle
        self.called: list[str] = []

    def __call__(self, cell: Cell, command: Sequence[str], log: Path) -> Ended:
        name, out = command[1], Path(command[command.index("--out") + 1])
        self.called.append(name)
        code = ENDS.get(name, 0)
        if code in (0, 3):
            shutil.copytree(self.bundle, out, dirs_exist_ok=True)
        answer = json.dumps(json.loads((self.bundle / "report.json").read_text()))
        return Ended(code, answer, "notes\nerror: no such thing\nhint: none\n" if code == 1 else "")


def _built(out: Path, builder: Builder, *, resume: bool = False, jobs: int = 1) -> list[Receipt]:
    return build_cells(CELLS, out, resume=resume, jobs=jobs, shown=Silent(), build=builder)


@pytest.mark.parametrize("jobs", [1, 4])
def test_one_receipt_for_each_cell_whatever_came_of_it(denoiser_bundle: Path, tmp_path: Path, jobs: int) -> None:
    receipts = _built(tmp_path / "out", Builder(denoiser_bundle), jobs=jobs)
    assert [(each.cell, each.verdict) for each in receipts] == [
        *(("good", "passed"), ("bad", "not built"), ("dead", "not built"), ("off", "parity failed")),
    ]
    assert [each.error for each in receipts[1:3]] == ["no such thing", "it was ended by SIGKILL: see its log"]
    assert receipts[0].digest == Bundle.open(denoiser_bundle).manifest.digest and receipts[0].snr_db is not None
    assert [read_receipt(tmp_path / "out", each.name) for each in CELLS] == receipts
    assert exit_code(receipts) == 3 and exit_code(receipts[:3]) == 1 and exit_code(receipts[:1]) == 0


def test_what_is_finished_is_not_built_again(denoiser_bundle: Path, tmp_path: Path) -> None:
    builder, out = Builder(denoiser_bundle), tmp_path / "out"
    first = _built(out, builder)
    with pytest.raises(ExportError, match="holds receipts of an earlier run"):
        _built(out, builder)
    builder.called.clear()
    again = _built(out, builder, resume=True)
    assert builder.called == ["bad", "dead"]  # what could not be built is tried again
    assert [each.verdict for each in again] == [each.verdict for each in first]
    graph = out / "bundles" / "good.dsr" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"!")
    (out / "receipts" / "off.json").unlink()
    builder.called.clear()
    _built(out, builder, resume=True)
    assert builder.called == ["good", "bad", "dead", "off"]


def test_a_stopped_driver_leaves_whole_receipts_only(denoiser_bundle: Path, tmp_path: Path) -> None:
    class Stops(Builder):
        def __call__(self, cell: Cell, command: Sequence[str], log: Path) -> Ended:
            if command[1] == "dead":
                raise KeyboardInterrupt
            return super().__call__(cell, command, log)

    with pytest.raises(KeyboardInterrupt):
        _built(tmp_path / "out", Stops(denoiser_bundle))
    names = sorted(path.name for path in (tmp_path / "out" / "receipts").iterdir())
    assert {"bad.json", "good.json"} <= set(names) and "dead.json" not in names
    builder = Builder(denoiser_bundle)
    _built(tmp_path / "out", builder, resume=True)
    assert "good" not in builder.called


def test_what_killed_drivers_left_half_is_no_receipt_and_goes(denoiser_bundle: Path, tmp_path: Path) -> None:
    """Bundles that came home, and receipts that were being written; what other machines do is theirs."""
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    child.wait()
    out, dead = tmp_path / "out", f"{this_machine()}-{child.pid}-{'0' * 16}"
    for folder in ("receipts", "bundles"):
        (out / folder / f".dsr-beside-{dead}").mkdir(parents=True)
        (out / folder / f".dsr-file-{dead}.tmp").write_text("half")
    kept = out / "bundles" / f".dsr-beside-{'0' * 8}-{child.pid}-{'0' * 16}"
    kept.mkdir()
    assert len(_built(out, Builder(denoiser_bundle))) == len(CELLS)
    assert list(out.rglob(".*")) == [kept]


def test_two_drivers_on_one_folder_are_one_too_many(denoiser_bundle: Path, tmp_path: Path) -> None:
    with exclusive(tmp_path / "out"), pytest.raises(ExportError, match="another build is writing"):
        _built(tmp_path / "out", Builder(denoiser_bundle))
    with exclusive(tmp_path / "out" / "share-1-of-2"):
        told = {"resume": True, "jobs": 1, "shown": Silent(), "build": Builder(denoiser_bundle)}
        assert build_cells(CELLS[1:2], tmp_path / "out", share="share-2-of-2", **told)
        with pytest.raises(ExportError, match="another build is writing"):
            build_cells(CELLS[:1], tmp_path / "out", share="share-1-of-2", **told)


def test_a_whole_run_and_a_share_do_not_build_one_cell_at_once(denoiser_bundle: Path, tmp_path: Path) -> None:
    """The later one ends, and leaves no receipt of its own over the other's bundle."""
    out, builder = tmp_path / "out", Builder(denoiser_bundle)
    with exclusive(receipt_path(out, "good")), pytest.raises(ExportError, match="another build is writing"):
        _built(out, builder)
    assert "good" not in builder.called and read_receipt(out, "good") is None


def test_a_file_that_is_no_receipt_is_named(denoiser_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _built(out, Builder(denoiser_bundle))
    receipt_path(out, "good").write_text('{"cell": "good"}')
    with pytest.raises(ExportError, match="is no receipt"):
        _built(out, Builder(denoiser_bundle), resume=True)


def test_the_summary_has_every_cell_and_every_reason(denoiser_bundle: Path, tmp_path: Path) -> None:
    receipts = _built(tmp_path / "out", Builder(denoiser_bundle))
    lines = summary_lines(receipts)
    assert lines[-1] == "4 cells: 1 passed, 1 parity failed, 2 not built" and "bad: no such thing" in lines
    markdown, page = summary_markdown(receipts), summary_page(receipts)
    assert all(each.name in markdown and each.name in page for each in CELLS)
    assert summary_dict(receipts)["passed"] is False


def test_a_build_is_a_process_whose_log_is_kept(tmp_path: Path) -> None:
    ended = run_command(["build", "no-such-model", "--json"], tmp_path / "log")
    assert ended.exit_code == 1 and "no-such-model" in ended.log and ended.answer == ""
    assert (tmp_path / "log").read_text() == ended.log


def test_a_share_of_a_calibration_is_no_cell(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fleet.toml").write_text('[matrix]\nprecision = "int8"\ncalibration-only = true\nbatch = ["1,1,1"]\n')
    done = cli("build", "--matrix", "fleet.toml")
    assert done.code == 1 and "--calibration-only is nothing for a cell" in done.err, done.err
    assert [path.name for path in tmp_path.iterdir()] == ["fleet.toml"]


def test_the_answer_goes_to_stdout(tmp_path: Path) -> None:
    """In a process of its own: only there is stdout a descriptor, which cells are checked and built beside."""
    (tmp_path / "fleet.toml").write_text('[matrix]\nmodel = "digits"\ncheckpoint = ["fleet.toml"]\n')
    command = [sys.executable, "-m", "dsr_export", "build", "--matrix", "fleet.toml", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    (cell,) = json.loads(done.stdout)["cells"]
    assert cell["verdict"] == "not built" and "fleet.toml" in cell["error"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--resume",), 2, "--resume goes with --matrix"),
        (("--cell", "1/2"), 2, "--cell goes with --matrix"),
        (("--matrix", "fleet.toml", "--precision", "fp16"), 2, "--precision does not go with --matrix"),
        (("digits", "--matrix", "fleet.toml"), 2, "model does not go with --matrix"),
        (("--matrix", "fleet.toml", "--calibration-only", "--precision", "int8"), 2, "run it without --matrix"),
        (("--matrix", "none.toml"), 1, "none.toml"),
        (("--matrix", "fleet.toml"), 1, "cell digits-rtz"),
        (("--matrix", "fleet.toml", "--cell", "3/2"), 1, "--cell '3/2' is not I/N"),
        (("--matrix", "fleet.toml", "--html", "no/such.html"), 1, "no folder"),
    ],
)
def test_the_command_refuses_before_anything_is_made(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fleet.toml").write_text('[matrix]\nmodel = "digits"\ntarget = ["onnxruntime", "rtz"]\n')
    done = cli("build", *options)
    assert done.code == code and message in done.err, done.err
    assert [path.name for path in tmp_path.iterdir()] == ["fleet.toml"]
