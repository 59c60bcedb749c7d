"""Files that a user did not make: devices, bombs and nesting in what is read by name, each refused at once."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dsr_export.backends.named_arrays import load_arrays
from dsr_export.declarations.dsr_file import read_dsr_file
from dsr_export.declarations.neuron_table import read_neurons
from dsr_export.declarations.yaml_file import read_yaml
from dsr_export.errors import ExportError
from graphs.artifacts import TensorSpec
from graphs.foreign.small_files import parse_small_json, read_small

ENCODER = '[encoder]\nkind = "test-time"\nneurons = "{}"\n'
REPLACE = '[[denoiser.replace]]\nlayers = [1]\nrule = "median"\nthreshold = 4.0\n'
INPUTS = (TensorSpec(name="x", dtype="float32", shape=("batch", 2)),)


@pytest.mark.parametrize("read", [read_dsr_file, read_neurons, read_yaml, read_small])
def test_devices_and_fifos_are_never_read(tmp_path: Path, read: object) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (Path("/dev/zero"), tmp_path / "fifo"):
        with pytest.raises(ExportError, match="is no regular file"):
            read(path)  # type: ignore[operator]


def test_a_declaration_that_names_a_device_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("/dev/zero", "fifo", "../" * 20 + "dev/zero"):
        (tmp_path / "dsr.toml").write_text(ENCODER.format(name))
        with pytest.raises(ExportError, match="is no regular file"):
            read_dsr_file(tmp_path / "dsr.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"[{'a.' * 100_000}a]\n", "more than the 16384 bytes"),
        ("x = " + "[" * 16_000, "nests without end"),
        ("x = " + "{a=" * 5000, "nests without end"),
        ("x = " + "9" * 5000, "is no TOML"),
        (REPLACE + "rounds = 1000000000\n", "rounds = 1000000000 is not a whole number up to 64"),
        (REPLACE + f"rounds = 0x{'f' * 5000}\n", "an integer of 20000 bits is not a whole number up to 64"),
        (REPLACE.replace("4.0", "1e400"), "threshold = inf is not a finite number"),
        (REPLACE.replace("4.0", "0x" + "f" * 400), "threshold = an integer of 1600 bits is not a finite number"),
        (REPLACE.replace("[1]", f"[{2**40}]"), "is not a list of whole numbers"),
        ("[denoiser]\nregisters = 1000000000\n", "is not a whole number up to 4096"),
        (ENCODER.format("a\\u0000b"), "is no path"),
    ],
)
def test_declarations_are_bounded(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "dsr.toml").write_text(text)
    with pytest.raises(ExportError, match=said) as caught:
        read_dsr_file(tmp_path / "dsr.toml")
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 65 + "]" * 65, '{"a":' * 65 + "1" + "}" * 65], ids=range(3))
def test_json_is_bounded_in_depth(text: str) -> None:
    with pytest.raises(ValueError, match="nests deeper"):
        parse_small_json(text.encode())
    assert parse_small_json(b"[" * 60 + b"]" * 60) is not None


def test_json_of_millions_of_lists_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 2000000 lists"):
        parse_small_json(b"[" + b"[]," * 2_000_000 + b"[]]")


def test_merged_mappings_do_not_double(tmp_path: Path) -> None:
    levels = [f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    (tmp_path / "a.yaml").write_text("\n".join(["a0: &a0 {x: 1}", *levels]))
    with pytest.raises(ExportError, match="'<<' takes one mapping"):
        read_yaml(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("a: &a {x: 1}\nb:\n  <<: *a\n  y: 2")
    assert read_yaml(tmp_path / "a.yaml")["b"] == {"x": 1, "y": 2}


@pytest.mark.parametrize("text", ["a: !!int ''", "a: !!bool x", "a: !!timestamp x", "? [a]\n: 1", "- " * 5000])
def test_yaml_of_wrong_tags_is_no_yaml(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ExportError, match="is no YAML"):
        read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize("table", [{"9" * 5000: [1]}, {"1": [10**30]}, {"1": "x" * 5000}], ids=range(3))
def test_neurons_are_bounded(tmp_path: Path, table: dict[str, object]) -> None:
    (tmp_path / "a.json").write_text(json.dumps(table))
    with pytest.raises(ExportError) as caught:
        read_neurons(tmp_path / "a.json")
    assert len(caught.value.message) < 400


def test_a_single_array_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(2))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(ExportError, match="is a single array"):
        load_arrays(tmp_path / "a.npz")


def test_inputs_are_compared_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 3), np.float32))
    monkeypatch.setattr("dsr_export.backends.named_arrays.read_npz", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(ExportError, match=r"has shape \[4, 3\], and the model takes \[batch, 2\]"):
        load_arrays(tmp_path / "a.npz", INPUTS)


def test_an_npz_bomb_is_refused_by_its_contents(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w") as member,
    ):
        for _ in range(300):
            member.write(bytes(1 << 20))
    with pytest.raises(ExportError, match="far more than its own size"):
        load_arrays(tmp_path / "a.npz", INPUTS)


def test_arrays_of_fortran_order_are_read(tmp_path: Path) -> None:
    stream, values = io.BytesIO(), np.asfortranarray(np.arange(6, dtype=np.float32).reshape(3, 2))
    np.savez(stream, x=values)
    (tmp_path / "a.npz").write_bytes(stream.getvalue())
    np.testing.assert_array_equal(load_arrays(tmp_path / "a.npz", INPUTS)["x"], values)
