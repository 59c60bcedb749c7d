from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from graphs.errors import ExportError
from graphs.foreign.external_data import check_external_data
from tests.backends.tiny_models import parse


def external(**entries: str) -> onnx.ModelProto:
    """A model whose weight (4 x 4 floats, 64 bytes) claims to lie where `entries` say."""
    model = parse("(float[batch,4] x) => (float[batch,4] y)", "y = MatMul(x, w)")
    weight = onnx.numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        weight.external_data.add(key=key, value=value)
    model.graph.initializer.append(weight)
    return model


@pytest.mark.parametrize("entries", [{}, {"offset": "16", "length": "64"}])
def test_a_regular_file_inside_the_folder_is_fine(tmp_path: Path, entries: dict[str, str]) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/w.data").write_bytes(bytes(80))
    check_external_data(external(location="sub/w.data", **entries), tmp_path)


@pytest.mark.parametrize(
    "location", ["", "/etc/hostname", "../w.data", "a/../w.data", "a\\w", "C:w", "./w.data", "a\0b"]
)
def test_a_path_that_could_leave_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    with pytest.raises(ExportError, match="'w': .* is not a plain path inside the model's folder"):
        check_external_data(external(location=location), tmp_path)


def test_links_folders_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/w.data").write_bytes(bytes(64))
    (tmp_path / "folder").symlink_to("real")
    (tmp_path / "link").symlink_to("real/w.data")
    for location, reason in [
        ("link", "symbolic link"),
        ("folder/w.data", "symbolic link"),
        ("real", "not a regular file"),
        ("none", "cannot be read"),
    ]:
        with pytest.raises(ExportError, match=reason):
            check_external_data(external(location=location), tmp_path)


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"offset": "8"}, "ends at byte 72 of 'w.data', which has 64"),
        ({"offset": "0", "length": "65"}, "ends at byte 65"),
        ({"offset": "-1"}, "not numbers"),
    ],
)
def test_bounds_beyond_the_file_are_refused(tmp_path: Path, entries: dict[str, str], reason: str) -> None:
    (tmp_path / "w.data").write_bytes(bytes(64))
    with pytest.raises(ExportError, match=reason):
        check_external_data(external(location="w.data", **entries), tmp_path)


def test_tensors_in_attributes_and_nested_graphs_are_seen(tmp_path: Path) -> None:
    model = parse(
        "(bool c) => (float[1] y)",
        "y = If(c)<then_branch = t () => (float[1] a) { a = Constant<value = float[1]{1}>() }, "
        "else_branch = e () => (float[1] b) { b = Constant<value = float[1]{2}>() }>",
    )
    tensor = model.graph.node[0].attribute[1].g.node[0].attribute[0].t
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    with pytest.raises(ExportError, match="not a plain path"):
        check_external_data(model, tmp_path)
