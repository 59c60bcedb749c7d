from __future__ import annotations

import pytest

from dsr_export.bundle.paths import check_path_set, check_relative_path, parents
from dsr_export.errors import ExportError


@pytest.mark.parametrize("path", ["model.onnx", "model.onnx.data", "engines/rtx-sm89.plan", "a/b/c", "_x", "1"])
def test_plain_paths_pass(path: str) -> None:
    assert check_relative_path(path, where="m") == path


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("", "is empty"),
        ("/etc/passwd", "is absolute"),
        ("//host/share", "is absolute"),
        ("..", "leads out"),
        ("../x", "leads out"),
        ("a/../b", "leads out"),
        ("a/..", "leads out"),
        ("a\\..\\b", "backslash"),
        ("\\x", "backslash"),
        ("a//b", "not normalised"),
        ("a/", "not normalised"),
        ("./a", "not normalised"),
        ("a/./b", "not normalised"),
        (".", "not normalised"),
        ("a\0b", "control character"),
        ("a\nb", "control character"),
        ("\x1b[2J", "control character"),
        ("C:/x", "colon"),
        ("C:x", "colon"),
        ("model.onnx:stream", "colon"),
        (".hidden", "not allowed"),
        ("a/.b", "not allowed"),
        ("-rf", "not allowed"),
        ("~", "not allowed"),
        ("a b", "not allowed"),
        ("a.", "not allowed"),
        ("\uff41", "not allowed"),
        ("e\u0301", "not allowed"),
        ("con", "device"),
        ("a/NUL.txt", "device"),
        ("a" * 241, "longer than 240"),
        ("a/" * 200 + "a", "longer than 240"),
    ],
)
def test_tricky_paths_are_refused_with_the_reason(path: str, problem: str) -> None:
    with pytest.raises(ExportError, match=problem) as caught:
        check_relative_path(path, where="m.json")
    assert caught.value.message.startswith("m.json names the file")
    assert caught.value.message.isprintable()  # nothing of the path reaches a terminal raw


@pytest.mark.parametrize(
    ("paths", "problem"),
    [
        (["manifest.json"], "its own checksum"),
        (["Manifest.JSON"], "its own checksum"),
        (["a", "A"], "one file on some systems"),
        (["a/b", "a"], "both as a file and as a folder"),
        (["a", "a/b/c"], "both as a file and as a folder"),
        (["ok", "../x"], "leads out"),
    ],
)
def test_paths_that_clash_are_refused(paths: list[str], problem: str) -> None:
    with pytest.raises(ExportError, match=problem):
        check_path_set(paths, where="m")


def test_parents_are_listed_outermost_first() -> None:
    assert parents("a/b/c") == ["a", "a/b"]
    assert parents("a") == []
