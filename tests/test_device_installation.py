"""What the guide installs on a device is what its Python is asked to have there, and all that the commands import."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from tests.pipelines.handmade import pipeline_bundle

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
GUIDE = (ROOT / "dsr_export" / "docs" / "jetson.md").read_text(encoding="utf-8")
ON_CPU_ONLY = [("Linux", "aarch64"), ("Windows", "ARM64"), ("Darwin", "arm64")]
ON_GPU_TOO = [("Linux", "x86_64"), ("Windows", "AMD64")]
LEFT_OUT = {"torch", "torchmetrics", "onnxscript", "safetensors", "pyyaml", "tomli"}
ON_A_DEVICE = """
import importlib.metadata as metadata, re, sys
from packaging.requirements import Requirement

def plain(name): return re.sub(r"[-_.]+", "-", name).lower()

kept, left = {"dsr-export"}, [*sys.argv.pop(1).split(","), "onnxruntime-gpu", "tensorrt-rtx", "pip", "setuptools"]
while left:
    if (name := plain(left.pop())) not in kept:
        kept.add(name)
        try:
            needed = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        left += [r.name for r in map(Requirement, needed) if r.marker is None or r.marker.evaluate({"extra": ""})]
for module, owners in metadata.packages_distributions().items():
    if not {plain(owner) for owner in owners} & kept:
        sys.modules[module] = None
for module in ("tomllib", "torch", "yaml", "safetensors"):
    sys.modules[module] = None
from dsr_export.cli import main
main(sys.argv[1:])
"""


def _guided() -> set[str]:
    return {need.name for need in _guided_needs()}


def _guided_needs() -> list[Requirement]:
    (line,) = re.findall(r"^pip install (click .*)$", GUIDE, re.M)
    return [Requirement(each) for each in line.split()]


def test_the_drivers_bindings_are_those_that_every_driver_serves() -> None:
    """JetPack 6 has CUDA 12.6, and bindings of CUDA 13 call what that driver lacks."""
    asked = next(need for need in _guided_needs() if need.name == "cuda-bindings")
    assert "12.9.10" in asked.specifier and "13.0.0" not in asked.specifier
    plain = next(
        need for need in map(Requirement, PROJECT["optional-dependencies"]["tensorrt"]) if need.name == asked.name
    )
    assert "12.9.10" in plain.specifier


def _asked(python: str, system: str, machine: str, extra: str | None = None) -> list[str]:
    """Names of what a plain installation takes in that environment."""
    lines = [*PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] if extra else [])]
    where = {"python_version": python, "platform_system": system, "platform_machine": machine}
    needs = map(Requirement, lines)
    return [need.name for need in needs if need.marker is None or need.marker.evaluate(where)]


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize(("system", "machine"), [*ON_CPU_ONLY, *ON_GPU_TOO])
def test_every_environment_gets_what_the_guide_says(python: str, system: str, machine: str) -> None:
    asked = _asked(python, system, machine, "tensorrt")
    assert len(asked) == len(set(asked))  # no requirement twice, and one ONNX Runtime
    wheel = "onnxruntime-gpu" if (system, machine) in ON_GPU_TOO else "onnxruntime"
    assert {name for name in asked if name.startswith("onnxruntime")} == {wheel}
    assert ("tomli" in asked) == (python == "3.10")
    assert (set(asked) - LEFT_OUT - {wheel, "tensorrt"}) | {"onnxruntime"} == _guided()


def test_extras_that_are_named_exist() -> None:
    texts = [path.read_text(encoding="utf-8") for folder in ("dsr_export",) for path in (ROOT / folder).rglob("*.md")]
    texts += [path.read_text(encoding="utf-8") for path in (ROOT / "dsr_export").rglob("*.py")]
    texts.append((ROOT / "README.md").read_text(encoding="utf-8"))
    named = {
        each
        for text in texts
        for found in re.findall(r"(?:dsr-export|'\.)\[([a-z,]+)\]", text)
        for each in found.split(",")
    }
    assert len(named) >= 4 and named <= set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("command", ["verify", "inspect", "run", "doctor"])
def test_commands_import_only_what_the_guide_installs(command: str, denoiser_bundle: Path, tmp_path: Path) -> None:
    inputs = {"x": np.zeros((2, 8, 4, 4), np.float32), "t": np.ones(2, np.float32), "y": np.array([1, 2])}
    np.savez(tmp_path / "in.npz", **inputs)
    bundle = str(denoiser_bundle)
    words = {
        "verify": [bundle],
        "inspect": [bundle],
        "run": [bundle, "--input", "in.npz", "--output", "out.npz"],
        "doctor": [],
    }
    line = [sys.executable, "-c", ON_A_DEVICE, ",".join(_guided()), command, *words[command]]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_pictures_are_drawn_with_the_tokenizers_beside_it(tmp_path: Path) -> None:
    """On Python 3.10, which JetPack has, nobody reads TOML either."""
    bundle = pipeline_bundle(tmp_path)
    words = ["sample", str(bundle), "--prompt", "a cat", "--steps", "2", "-o", "out.png"]
    line = [sys.executable, "-c", ON_A_DEVICE, ",".join([*_guided(), "tokenizers"]), *words]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.png").is_file()
