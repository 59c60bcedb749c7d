"""Shares of a calibration: together they give what one machine does, byte for byte, and nothing else is taken."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from calibration.collect import CalibrationData
from dsr_export.declarations.calibration_part import RECORD, Part, read_part, read_parts
from dsr_export.declarations.int8_options import Int8Options
from dsr_export.declarations.share import Share
from dsr_export.errors import ExportError
from dsr_export.int8.calibrate import calibrate
from dsr_export.int8.data import open_data
from dsr_export.int8.made_for import check_made_for, checked_parts, difference
from dsr_export.int8.measure import close, opened
from dsr_export.int8.parts import joined_parts, write_part
from dsr_export.storage.disk import remove_tree
from graphs.artifacts import OptimizedModel, TensorSpec
from graphs.precisions import Precision
from graphs.quantize.schemes import SCHEMES
from tests.calibration.small_graph import TOKENS, WIDTH, small_model
from tests.int8.cards import card

OPTIONS = Int8Options(data="rows.npz")
MADE_FOR = {
    "by": {"numpy": "2.0", "source": "s"},
    "model": {"weights": "w"},
    "source": {"of": "g"},
    "options": {"method": "outlier-aware", "data": "a" * 64, "images": 4, "steps": None},
    "sampler": {"num_steps": 6},
    "walk": {"prompts": ["a cat"], "pipeline": "p"},
    "precision": "int8",
}
CARD = card(
    inputs=(
        TensorSpec(name="x", dtype="float32", shape=("batch", TOKENS, WIDTH)),
        TensorSpec(name="t", dtype="float32", shape=("batch", WIDTH)),
    ),
    outputs=(TensorSpec(name="out", dtype="float32", shape=("batch", TOKENS, WIDTH)),),
    sampler=None,
)


def _bar(done: int, total: int) -> None:
    assert done <= total


@dataclass(frozen=True)
class Bench:
    """A small model and 52 rows for it: seven calls, the last of them short."""

    folder: Path
    model: OptimizedModel
    data: CalibrationData

    def table(self, parts: list[Part] | None = None, precision: Precision = "int8", *tables: Path) -> dict[str, bytes]:
        """Every file of the stage's folder. `tables` are given in place of data."""
        folder = self.folder / "made"
        folder.mkdir()

        def measure(observed: Any) -> Any:
            if parts is not None:
                return joined_parts(observed, parts, _bar)
            return observed.measured(self.data, folder, _bar)

        options, given = replace(OPTIONS, tables=tables), None if tables else measure
        try:
            calibrate(self.model, CARD, options, SCHEMES[precision], given, folder, _bar)
            return {path.name: path.read_bytes() for path in folder.iterdir()}
        finally:
            remove_tree(folder)

    def measured(self, of: int, name: str = "parts") -> Path:
        """A folder with all of so many shares."""
        for index in range(1, of + 1):
            share = Share(index, of)
            folder = self.folder / name / str(share)
            folder.mkdir(parents=True)
            observed = opened(self.model, CARD, OPTIONS, SCHEMES["int8"], folder)
            found = observed.measured(self.data, folder, _bar, share.run(self.data.sections.count))
            write_part(folder, found, share, self.data.sections, MADE_FOR)
            close(folder)
        return self.folder / name


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder, rng = tmp_path_factory.mktemp("parts"), np.random.default_rng(0)
    onnx.save(small_model(), folder / "m.onnx")
    sizes = 10.0 ** rng.integers(-3, 3, (52, 1, 1))
    x = (rng.standard_normal((52, TOKENS, WIDTH)) * sizes).astype(np.float32)
    np.savez(folder / "rows.npz", x=x, t=rng.standard_normal((52, WIDTH)).astype(np.float32))
    options = Int8Options(data=str(folder / "rows.npz"))
    return Bench(folder, OptimizedModel(path=folder / "m.onnx"), open_data(options, CARD, None, _no_example))


def _no_example(rows: int, seed: int) -> dict[str, np.ndarray]:
    raise AssertionError("no random data is asked for")


@pytest.fixture
def parts(bench: Bench, measured: Path, tmp_path: Path) -> Path:
    """Three shares, to be damaged."""
    return Path(shutil.copytree(measured, tmp_path / "three"))


@pytest.fixture(scope="module")
def measured(bench: Bench) -> Path:
    return bench.measured(3, "three")


@pytest.mark.parametrize("of", [1, 2, 3, 7, 9])
def test_shares_give_the_bytes_of_one_machine(bench: Bench, of: int) -> None:
    one = bench.table()
    assert {"calibration.json", "int8.codes.bin", "checks.npz", "model.onnx"} <= one.keys()
    folder = bench.measured(of, f"of-{of}")
    assert bench.table(read_parts([folder])) == one
    assert bench.table(read_parts([folder])[::-1]) == one  # in any order


def test_another_share_of_the_data_gives_another_table(bench: Bench, measured: Path) -> None:
    """What the equality above rests on: the rows of a share do matter."""
    tables = {json.dumps(json.loads((measured / str(Share(i, 3)) / RECORD).read_bytes())["files"]) for i in (1, 2, 3)}
    assert len(tables) == 3


def test_a_table_serves_builds_of_its_precision_alone(bench: Bench, tmp_path: Path) -> None:
    for precision, other, said in (
        ("int8", "fp8", "INT8, and those of FP8 FP8 or INT8"),
        ("fp8", "int8", "FP8 or INT8, and those of INT8 INT8"),
    ):
        made = bench.table(None, precision)  # type: ignore[arg-type]
        (tmp_path / precision).write_bytes(made["calibration.json"])
        again = bench.table(None, precision, tmp_path / precision)  # type: ignore[arg-type]
        assert again["calibration.json"] == made["calibration.json"]
        with pytest.raises(ExportError, match=f"is of another precision: its codes are {said}") as told:
            bench.table(None, other, tmp_path / precision)  # type: ignore[arg-type]
        assert "calibrate again" in str(told.value.hint)


# --- what is refused


def _without_a_share(folder: Path) -> None:
    remove_tree(folder / "share-2-of-3")


def _twice(folder: Path) -> None:
    shutil.copytree(folder / "share-2-of-3", folder / "share-4-of-4")


def _of_two_splits(folder: Path) -> None:
    _rewrite(folder / "share-2-of-3", share=Share(2, 4))


def _of_other_data(folder: Path) -> None:
    _rewrite(folder / "share-2-of-3", sections=5)


def _altered(folder: Path) -> None:
    path = folder / "share-2-of-3" / RECORD
    path.write_bytes(path.read_bytes().replace(b'"sections":7', b'"sections":8'))


def _cut(folder: Path) -> None:
    path = folder / "share-2-of-3" / RECORD
    path.write_bytes(path.read_bytes()[:99])


def _without_record(folder: Path) -> None:
    (folder / "share-2-of-3" / RECORD).unlink()


def _leading_out(folder: Path) -> None:
    part = read_part(folder / "share-2-of-3")
    _rewrite(part.folder, files={**part.files, "../kept.npz": "0"})


def _rewrite(folder: Path, **changes: Any) -> None:
    (folder / RECORD).write_bytes(replace(read_part(folder), **changes).to_bytes())


@pytest.mark.parametrize(
    ("spoil", "said", "hint"),
    [
        (_without_a_share, "share 2 of 3 is missing", "--calibration-only --shard 2/3"),
        (_twice, "share 2 of 3 is there twice", "leave one of them away"),
        (_of_two_splits, "is share 2 of 4, and .* share 1 of 3", "all of one number"),
        (_of_other_data, "is of data in 5 sections, and .* in 7", "all of one number"),
        (_altered, "was changed", "--shard 2/3"),
        (_cut, "no valid JSON", "--shard 2/3"),
        (_without_record, "cannot read .*part.json", "--shard 2/3"),
        (_leading_out, "no record of this version", "--shard 2/3"),
    ],
)
def test_shares_that_are_not_whole(parts: Path, spoil: Callable[[Path], None], said: str, hint: str) -> None:
    spoil(parts)
    with pytest.raises(ExportError, match=said) as told:
        read_parts([parts])
    assert hint in str(told.value.hint)


@pytest.mark.parametrize(("name", "said"), [("0.npz", "damaged"), ("1-0.npz", "missing"), ("kept.npz", "damaged")])
def test_a_damaged_file_is_named_with_how_to_make_it_again(bench: Bench, parts: Path, name: str, said: str) -> None:
    path = parts / "share-3-of-3" / name
    content = path.read_bytes()
    path.write_bytes(content[:300] + bytes([content[300] ^ 1]) + content[301:])
    if said == "missing":
        path.unlink()
    observed = opened(bench.model, CARD, OPTIONS, SCHEMES["int8"], parts)
    with pytest.raises(ExportError, match=f"{name} is {said}") as told:
        joined_parts(observed, read_parts([parts]), _bar)
    assert "--shard 3/3 --force" in str(told.value.hint)


def test_sealed_nonsense_is_no_traceback(bench: Bench, parts: Path) -> None:
    """A record that fits files of another model, or shares that leave a section out or have one twice."""
    part, first = read_part(parts / "share-3-of-3"), "h"
    own = part.activations[first]
    observed = opened(bench.model, CARD, OPTIONS, SCHEMES["int8"], parts)
    for files, said in ((own[:1], "some sections were not seen"), ([*own, own[-1]], "a section is there twice")):
        _rewrite(part.folder, activations={**part.activations, first: files})
        with pytest.raises(ExportError, match=said):
            joined_parts(observed, read_parts([parts]), _bar)
    _rewrite(part.folder, activations={**part.activations, first: [part.kept]})
    with pytest.raises(ExportError, match="holds no statistics of this model"):
        joined_parts(observed, read_parts([parts]), _bar)
    _rewrite(part.folder, activations={"other": part.activations[first]})
    with pytest.raises(ExportError, match="other activations"):
        joined_parts(observed, read_parts([parts]), _bar)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("by", "numpy"), "1.26", "numpy 2.0, not 1.26"),
        (("by", "torch"), "2.9", "torch missing, not 2.9"),
        (("by", "source"), "other", "another version of this package's code"),
        (("model", "weights"), "v", "another model, or other weights"),
        (("source", "of"), "h", "another model, or other weights"),
        (("options", "method"), "minmax", "--method outlier-aware, not minmax"),
        (("options", "images"), 8, "--calibration-images 4, not 8"),
        (("options", "steps"), 9, "--calibration-steps by default, not 9"),
        (("options", "data"), "b" * 64, "other data in --calibration"),
        (("sampler", "num_steps"), 9, "walks of another sampler, its num_steps 6, not 9"),
        (("walk", "prompts"), ["a dog"], "walks of other prompts"),
        (("walk", "pipeline"), "q", "walks of another pipeline around the model"),
        (("card", "name"), "n", "another model or batch"),
    ],
)
def test_what_a_share_was_measured_for_is_said(measured: Path, path: tuple[str, str], value: object, said: str) -> None:
    wanted: dict[str, Any] = copy.deepcopy(MADE_FOR)
    wanted.setdefault(path[0], {})[path[1]] = value
    part = read_part(measured / "share-1-of-3")
    with pytest.raises(ExportError, match="was measured for another build") as told:
        check_made_for(part, wanted)
    assert told.value.message.endswith(said)
    check_made_for(part, MADE_FOR)
    assert difference(MADE_FOR, MADE_FOR) is None


def test_shares_of_another_precision_are_told_apart(measured: Path) -> None:
    part = read_part(measured / "share-1-of-3")
    with pytest.raises(ExportError, match="was measured for another build: --precision int8, not fp8") as told:
        check_made_for(part, {**MADE_FOR, "precision": "fp8"})
    assert "measure all shares with the same options" in str(told.value.hint)


def test_shares_of_two_calibrations_do_not_mix(parts: Path) -> None:
    assert [part.share.index for part in checked_parts([parts])] == [1, 2, 3]
    _rewrite(parts / "share-3-of-3", made_for={**MADE_FOR, "model": {"weights": "other"}})
    with pytest.raises(ExportError, match="share-3-of-3 does not go with .*another model"):
        checked_parts([parts])
