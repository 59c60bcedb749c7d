"""What results are made with: the code's digest and the tools' versions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dsr_export.storage import made_with
from dsr_export.storage.made_with import source_digest, tool_versions


def test_the_source_digest_follows_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pkg" / "sub").mkdir(parents=True)
    (tmp_path / "pkg" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(made_with, "_PACKAGES", ("pkg",))
    digests = [source_digest.__wrapped__()]
    for name, text in [("sub/a.py", "x = 1"), ("sub/a.py", "x = 2"), ("sub/b.py", ""), ("c.txt", "no code")]:
        (tmp_path / "pkg" / name).write_text(text)
        digests.append(source_digest.__wrapped__())
    assert len(set(digests[:4])) == 4
    assert digests[4] == digests[3]


def test_the_source_digest_is_kept() -> None:
    assert source_digest() is source_digest()
    assert source_digest() == source_digest.__wrapped__()


def test_tool_versions_import_nothing() -> None:
    code = (
        "import sys; from dsr_export.storage.made_with import tool_versions; print(sorted(tool_versions()));"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'tensorrt', 'tensorrt_rtx', 'polygraphy'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "'numpy'" in done.stdout


def test_tool_versions_hold_what_is_installed() -> None:
    import numpy as np

    versions = tool_versions()
    assert versions["numpy"] == np.__version__
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["dsr-export"]
    assert "tensorrt-rtx-of-nobody" not in versions
