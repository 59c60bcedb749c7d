"""Calibration data: what is refused, by name, and that ids and labels of rows depend on no batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calibration.collect import BUCKETS, LOW_NOISE_WEIGHT, CalibrationData, Call
from dsr_export.declarations.int8_options import Int8Options
from dsr_export.errors import ExportError
from dsr_export.example_rows.drawn import draw_inputs
from dsr_export.int8.data import RANDOM_ROWS, check_data, open_data
from dsr_export.subject import SubjectCard
from tests.int8.cards import SAMPLER, SHAPE, card

GUIDED = dataclasses.replace(SAMPLER, guidance=2.0)
LARGE = 200_000_000  # parameters; such a model gets fewer rows a call


def _rows(count: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "x": rng.standard_normal((count, *SHAPE)).astype(np.float32),
        "t": np.linspace(1, 0.1, count, dtype=np.float32),
        "y": np.arange(count),
    }


def _open(data: Path | str, subject: SubjectCard | None = None, images: int = 4) -> CalibrationData:
    chosen = subject or card()

    def example(rows: int, seed: int) -> Mapping[str, np.ndarray]:
        return draw_inputs(chosen.inputs, rows, seed=seed, num_classes=10, draws={})

    return open_data(Int8Options(data=str(data), images=images), chosen, chosen.sampler, example)


def _calls(data: CalibrationData, only: set[int] | None = None) -> list[Call]:
    """A fake model that answers with its input, so that a walk goes on from it."""
    seen: list[Call] = []

    def answer(call: Call) -> np.ndarray:
        seen.append(call)
        return call.inputs["x"]

    data.drive(answer, lambda done, total: None, only)
    return seen


def _joined(calls: list[Call], name: str) -> np.ndarray:
    return np.concatenate([getattr(call, name) for call in calls])


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    return tmp_path / "rows.npz"


# --- what is refused


def test_a_missing_file(npz: Path) -> None:
    with pytest.raises(ExportError, match=r"rows\.npz does not exist"):
        _open(npz)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="holds no calibration data") as told:
        _open(tmp_path)
    assert "npz" in str(told.value.hint)


def test_a_file_that_is_no_npz(npz: Path) -> None:
    npz.write_bytes(b"no zip")
    with pytest.raises(ExportError, match=r"rows\.npz is no readable npz"):
        _open(npz)


def test_what_does_not_fit_is_refused_before_a_value_is_read(npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(npz, **{**_rows(), "x": np.zeros((5, 9, 9), np.float32)})

    def read(*_: object, **__: object) -> None:
        raise AssertionError("values were read")

    monkeypatch.setattr("dsr_export.int8.data_files.load_arrays", read)
    with pytest.raises(ExportError, match=r"has the shape \[5, 9, 9\]"):
        _open(npz)


def test_damage_is_found_before_a_model_is_traced(npz: Path, tmp_path: Path) -> None:
    np.savez(npz, **_rows())
    check_data(Int8Options(data=str(npz)))
    check_data(Int8Options())
    npz.write_bytes(npz.read_bytes()[:50])
    with pytest.raises(ExportError, match="is no readable npz"):
        check_data(Int8Options(data=str(npz)))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(ExportError, match="is no readable image"):
        check_data(Int8Options(data=str(tmp_path / "pictures")))


def test_a_missing_input_is_named_with_those_that_are_there(npz: Path) -> None:
    rows = _rows()
    del rows["t"]
    np.savez(npz, **rows)
    with pytest.raises(ExportError, match=r"rows\.npz lacks the input 't'") as told:
        _open(npz)
    assert told.value.hint == "it holds x, y"


def test_a_wrong_shape_is_shown_beside_the_right_one(npz: Path) -> None:
    np.savez(npz, **{**_rows(), "x": np.zeros((5, 2, 4, 5), np.float32)})
    with pytest.raises(ExportError, match=r"'x' has the shape \[5, 2, 4, 5\], expected \[n, 2, 4, 4\]"):
        _open(npz)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("x", np.zeros((5, *SHAPE), np.int64), "'x' is int64, expected float32"),
        ("y", np.zeros(5, np.float32), "'y' is float32, expected int64"),
    ],
)
def test_a_wrong_type(npz: Path, name: str, value: np.ndarray, said: str) -> None:
    np.savez(npz, **{**_rows(), name: value})
    with pytest.raises(ExportError, match=said):
        _open(npz)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_found_with_their_row(npz: Path, bad: float) -> None:
    rows = _rows()
    rows["x"][3, 1, 2, 0] = bad
    np.savez(npz, **rows)
    with pytest.raises(ExportError, match="'x' holds NaN or Inf in row 3"):
        _open(npz)


def test_inputs_of_different_lengths_and_of_none(npz: Path) -> None:
    for rows in ({**_rows(5), "t": np.ones(4, np.float32)}, _rows(0), {**_rows(), "t": np.float32(1)}):
        np.savez(npz, **rows)
        with pytest.raises(ExportError, match="no rows, or not as many of each input"):
            _open(npz)


def test_the_file_of_a_folder_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **_rows())
    np.savez(tmp_path / "b.npz", **{**_rows(), "y": np.zeros((5, 1), np.int64)})
    with pytest.raises(ExportError, match=r"b\.npz: 'y' has the shape \[5, 1\], expected \[n\]"):
        _open(tmp_path)


def test_pictures_for_a_model_that_takes_more_than_pictures(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(ExportError, match="holds pictures, and tiny takes x, t, y") as told:
        _open(tmp_path)
    assert "--calibration a folder or an npz file" in str(told.value.hint)


def test_no_trajectory_without_a_sampler() -> None:
    with pytest.raises(ExportError, match="tiny has no sampler, so it has no trajectories") as told:
        _open("trajectory", card(sampler=None))
    assert "--calibration a folder or an npz file" in str(told.value.hint)


def test_too_few_rows_for_a_fixed_batch(npz: Path) -> None:
    np.savez(npz, **_rows(3))
    with pytest.raises(ExportError, match="3 calibration rows do not fill the batch of 4"):
        _calls(_open(npz, card(batch_limits=(4, 4))))


# --- what is taken


def test_a_folder_is_all_its_files_in_order(tmp_path: Path) -> None:
    both = _rows(7)
    for name, chosen in (("b", slice(3, None)), ("a", slice(0, 3))):
        np.savez(tmp_path / f"{name}.npz", **{key: value[chosen] for key, value in both.items()})
    calls = _calls(_open(tmp_path))
    np.testing.assert_array_equal(np.concatenate([call.inputs["x"] for call in calls]), both["x"])


def test_a_fixed_batch_is_always_full(npz: Path) -> None:
    np.savez(npz, **_rows(11))
    assert [len(call.samples) for call in _calls(_open(npz, card(batch_limits=(4, 4))))] == [4, 4]


def test_half_floats_and_short_integers_become_the_declared_types(npz: Path) -> None:
    rows = _rows()
    np.savez(npz, x=rows["x"].astype(np.float16), t=rows["t"].astype(np.float64), y=rows["y"].astype(np.int32))
    (call,) = _calls(_open(npz))
    assert {name: str(value.dtype) for name, value in call.inputs.items()} == {
        "x": "float32",
        "t": "float32",
        "y": "int64",
    }


def test_time_says_where_a_row_lies_between_noise_and_data(npz: Path) -> None:
    done = [0, 0.3, 0.6, 0.8, 1.0]
    np.savez(npz, **{**_rows(5), "t": 1 - np.array(done, np.float32)})  # from 1, noise, downwards
    (call,) = _calls(_open(npz))
    np.testing.assert_allclose(call.progress, done, atol=1e-6)
    assert call.buckets.tolist() == [0, 1, 2, 3, 3]
    assert call.weights.tolist() == [1, 1, 1, LOW_NOISE_WEIGHT, LOW_NOISE_WEIGHT]
    reversed_time = card(sampler=dataclasses.replace(SAMPLER, path="reversed"))
    (call,) = _calls(_open(npz, reversed_time))
    np.testing.assert_allclose(call.progress, 1 - np.array(done), atol=1e-6)


def test_random_data_is_that_of_its_seed() -> None:
    one, same, other = (_calls(_open(f"random:{seed}")) for seed in (3, 3, 4))
    assert sum(len(call.samples) for call in one) == RANDOM_ROWS
    np.testing.assert_array_equal(one[0].inputs["x"], same[0].inputs["x"])
    assert not np.array_equal(one[0].inputs["x"], other[0].inputs["x"])


# --- trajectories


@pytest.mark.parametrize("sampler", [SAMPLER, GUIDED], ids=["plain", "guided"])
@pytest.mark.parametrize("images", [3, 9])
def test_ids_of_rows_do_not_depend_on_how_many_share_a_call(sampler: object, images: int) -> None:
    walks = {
        size: _calls(_open("trajectory", card(sampler=sampler, **limits), images=images))
        for size, limits in {
            8: {},
            2: {"parameters": LARGE},
            1: {"batch_limits": (1, 1)} if sampler is SAMPLER else {"batch_limits": (2, 2)},
        }.items()
    }
    by_id = {size: _rows_by_id(calls) for size, calls in walks.items()}
    doubled = 2 if sampler is GUIDED else 1
    assert len(by_id[8]) == images * doubled * (SAMPLER.num_steps - 1)
    for size, calls in walks.items():
        assert max(len(call.samples) for call in calls) <= max(size, doubled)
        assert by_id[size].keys() == by_id[8].keys()
        for key, row in by_id[size].items():
            assert row == by_id[8][key]


def _rows_by_id(calls: list[Call]) -> dict[int, tuple[bytes, float, int, float]]:
    rows = {}
    for call in calls:
        for i, sample in enumerate(call.samples.tolist()):
            assert sample not in rows, "two rows of one id"
            x, t, y = (call.inputs[name][i] for name in "xty")
            rows[sample] = x.tobytes(), float(t), int(y), float(call.progress[i])
    return rows


def test_a_guided_walk_sees_each_label_and_as_many_null_labels() -> None:
    labels = np.concatenate([c.inputs["y"] for c in _calls(_open("trajectory", card(sampler=GUIDED), images=5))])
    assert (labels == 10).sum() == len(labels) / 2
    assert set(labels.tolist()) == {0, 2, 4, 6, 8, 10}


def test_a_plain_walk_gives_every_fourth_image_the_null_label() -> None:
    calls = _calls(_open("trajectory", images=8))
    assert calls[0].inputs["y"].tolist() == [0, 1, 2, 10, 5, 6, 7, 10]


def test_a_model_without_a_null_label_is_given_classes_only() -> None:
    plain = dataclasses.replace(SAMPLER, null_label=None)
    calls = _calls(_open("trajectory", card(sampler=plain), images=8))
    assert calls[0].inputs["y"].tolist() == [0, 1, 2, 3, 5, 6, 7, 8]


def test_a_walk_reaches_every_bucket_from_noise_to_data() -> None:
    long = dataclasses.replace(SAMPLER, num_steps=17)
    calls = _calls(_open("trajectory", card(sampler=long)))
    buckets = _joined(calls, "buckets")
    assert set(buckets.tolist()) == set(range(BUCKETS))
    assert (calls[0].progress == 0).all()
    assert (calls[-1].progress == 1).all()


@pytest.mark.parametrize("shape", [(), (3,)])
def test_recorded_rows_are_told_apart_by_a_time_that_diffusers_names(shape: tuple[int, ...], npz: Path) -> None:
    """Of one with a time a token, by the first token's."""
    steps = np.linspace(1000, 0, 32, dtype=np.float32).reshape(32, *[1] * len(shape))
    rows = {name: value for name, value in _rows(32).items() if name != "t"} | {"y": np.arange(32) % 10}
    np.savez(npz, **rows, timestep=np.broadcast_to(steps, (32, *shape)))
    inputs = tuple(
        dataclasses.replace(spec, name="timestep", shape=("batch", *shape)) if spec.name == "t" else spec
        for spec in card().inputs
    )
    calls = _calls(_open(npz, card(inputs=inputs, sampler=None)))
    assert {call.place for call in calls} == {None}
    assert _joined(calls, "progress").tolist() == sorted(_joined(calls, "progress"))
    assert set(_joined(calls, "buckets").tolist()) == set(range(BUCKETS))


@pytest.mark.parametrize("kind", ["trajectory", "rows"])
def test_sections_are_walked_apart(kind: str, npz: Path) -> None:
    """In any order, they make the calls of a whole walk; those of a section follow each other."""
    np.savez(npz, **{**_rows(70), "y": np.arange(70) % 10})
    data = _open("trajectory" if kind == "trajectory" else npz, images=70)
    whole, count = _calls(data), data.sections.count
    assert 1 < count <= len(whole)
    assert [call.section for call in whole] == sorted(call.section for call in whole)
    assert {call.section for call in whole} == set(range(count))
    apart: list[Call] = []
    for section in reversed(range(count)):
        apart = _calls(data, {section}) + apart
    assert [call.samples.tolist() for call in apart] == [call.samples.tolist() for call in whole]
    assert [call.inputs["x"].tobytes() for call in apart] == [call.inputs["x"].tobytes() for call in whole]
    assert _calls(data, set()) == []
