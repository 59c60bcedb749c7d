"""`dsr-export fit` as one types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.families.tiny_sizes import REQUIRED
from tests.fitting.small_fits import GATE, base, latents

SIZES = [word for name, value in REQUIRED.items() for word in ("--option", f"{name}={value}")]


def test_what_it_makes_is_built(cli: Cli, tmp_path: Path) -> None:
    model = ("rae-dit", "--checkpoint", base(tmp_path).checkpoint, *SIZES)
    (tmp_path / "dsr.toml").write_text(GATE)
    recipe = ("--data", latents(tmp_path), "--steps", "4", "--batch", "4", "--out", tmp_path / "made", "--json")
    done = cli("fit", *model, "--dsr", tmp_path / "dsr.toml", *recipe)
    assert done.code == 0, done.err
    made = json.loads(done.out)
    assert made["build"].startswith("dsr-export build rae-dit --checkpoint")
    assert made["build"].endswith(f"--dsr {tmp_path / 'made' / 'dsr.toml'}")
    built = cli("build", *made["build"].split()[2:], "--target", "onnxruntime", "--out", tmp_path / "x.dsr")
    assert built.code == 0, built.err
    assert json.loads((tmp_path / "x.dsr" / "manifest.json").read_text())["dsr"]["denoiser"]["replace"][0] == {
        "choice": "gate",
        "layers": [1],
        "registers": "site-1.safetensors",
        "rounds": 1,
        "rule": "median",
        "stream": "image",
        "threshold": 3.0,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--steps", "0"), "--steps"),
        (("--rate", "nan"), "no learning rate"),
        (("--rate", "0"), "no learning rate"),
        (("--norm-weight", "-1"), "no weight"),
        (("--norm-weight", "nan"), "no weight"),
        (("--device", "cuda:9"), "no device 'cuda:9' here"),
        (("--dsr", "none.toml"), "no such file: none.toml"),
        (("--data", "none.npz"), "no data at none.npz"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(
    options: tuple[str, ...], message: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gate.toml").write_text(GATE)
    declared = () if "--dsr" in options else ("--dsr", "gate.toml")
    done = cli("fit", "digits", *declared, *options)
    assert done.code in (1, 2) and message in done.err, done.err
    assert [path.name for path in tmp_path.iterdir()] == ["gate.toml"]
