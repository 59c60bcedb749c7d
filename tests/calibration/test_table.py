"""The calibration table: what is refused, and what merging two runs gives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.activation_schemes import Choice
from calibration.stats import ActivationStats
from calibration.table import Table, activation_entry, choice_from, choices_from, merged, read_table
from calibration.token_roles import RegisterRows
from graphs.errors import ExportError
from graphs.quantize.formats import FP8, INT8, CodeFormat
from graphs.quantize.gemms import Activation

MODEL, OTHER = "a" * 64, "b" * 64
WIDTH, TOKENS = 4, 6


def _seen(seed: int, images: int) -> ActivationStats:
    stats = ActivationStats("h", WIDTH, TOKENS, RegisterRows(count=1, patches=TOKENS - 1))
    x = np.random.default_rng(seed).standard_normal((images, TOKENS, WIDTH)).astype(np.float32)
    stats.observe(x, np.arange(images), np.arange(images) % 4, np.ones(images))
    return stats


def _choice(step: float = 0.02, *, factors: float = 1.0, rows: tuple[float, ...] | None = None) -> Choice:
    kind = "none" if rows is None else "static"
    by_row = None if rows is None else np.array(rows, np.float32)
    return Choice(
        activation=Activation(step=step, rows=kind, row_factors=by_row),
        factors=np.full(WIDTH, factors, np.float32),
        snr_db=30.0,
    )


def _table(choice: Choice | None = None, *, seed: int = 0, images: int = 8, model: str = MODEL) -> Table:
    entry = activation_entry(choice or _choice(), roles=_seen(seed, images).roles_as_dict())
    gemm = {"activation": "h", "weight_only": False, "flops_share": 1.0}
    return Table(model, "outlier-aware", {"kind": "trajectory"}, {"h": entry}, {"blocks.0.fc": gemm})


def _written(folder: Path, change: Callable[[dict[str, Any]], None] | None = None, **made: Any) -> Path:
    """A table on disk; `change` edits its content, and the digest is made honest again."""
    content = json.loads(_table(**made).to_bytes())
    if change is not None:
        del content["digest"]
        change(content)
        canonical = json.dumps(content, sort_keys=True, indent=1).encode()
        content["digest"] = hashlib.sha256(canonical).hexdigest()
    path = folder / "calibration.json"
    path.write_text(json.dumps(content, sort_keys=True, indent=1))
    return path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    choice = _choice(0.0123, factors=3.0, rows=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0))
    table = read_table(_written(tmp_path, choice=choice), model_sha256=MODEL)
    (again,) = table.choices()["h"]
    assert again.activation.step == 0.0123
    np.testing.assert_array_equal(again.factors, choice.factors)
    np.testing.assert_array_equal(again.activation.row_factors, choice.activation.row_factors)
    assert table.to_bytes() == _table(choice).to_bytes()


def test_finer_formats_are_read_back_in_their_order(tmp_path: Path) -> None:
    """Entries of INT8 alone have the form that they always had."""
    first, second = _of(FP8, 0.01), _of(INT8, 0.03)
    entry = activation_entry(first, second, clipped=0.1)
    assert (entry["format"], "format" in entry["finer"][0], entry["clipped"]) == ("fp8", False, 0.1)
    table = Table(MODEL, "outlier-aware", {}, {"h": entry}, {})
    (tmp_path / "t.json").write_bytes(table.to_bytes())
    found = read_table(tmp_path / "t.json", model_sha256=MODEL).choices()["h"]
    assert [(each.activation.format, each.activation.step) for each in found] == [(FP8, 0.01), (INT8, 0.03)]
    assert activation_entry(second).keys().isdisjoint({"format", "finer"})


@pytest.mark.parametrize("finer", [3, "ab", [3], {"step": 1}, [[]]])
def test_impossible_formats_are_refused(finer: Any) -> None:
    with pytest.raises(ExportError, match="entry for 'h' holds impossible formats"):
        choices_from("h", {**_table().activations["h"], "finer": finer})


@pytest.mark.parametrize("form", ["fp9", None, 3, ["int8"]])
def test_a_format_that_is_not_known_is_refused(form: Any) -> None:
    with pytest.raises(ExportError, match="entry for 'h' (is incomplete|holds impossible formats)"):
        choice_from("h", {**_table().activations["h"], "format": form})


def test_one_changed_digit_is_found(tmp_path: Path) -> None:
    path = _written(tmp_path)
    path.write_text(path.read_text().replace('"step": 0.02', '"step": 0.03'))
    with pytest.raises(ExportError, match=r"was altered: its digest is [0-9a-f]{64}, its content has [0-9a-f]{64}"):
        read_table(path, model_sha256=MODEL)


def test_the_table_of_another_model_names_both(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"measured on the model {OTHER}, and this one is {MODEL}") as told:
        read_table(_written(tmp_path, model=OTHER), model_sha256=MODEL)
    assert "its own bundle" in str(told.value.hint)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "can't be read"),
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "is no calibration table of schema version 1"),
        ('{"schema_version": 1}', "is no calibration table of schema version 1"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "table.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ExportError, match=said) as told:
        read_table(path, model_sha256=MODEL)
    assert "calibration.json of a bundle" in str(told.value.hint)


def test_a_later_schema_is_refused(tmp_path: Path) -> None:
    path = _written(tmp_path, lambda content: content.update(schema_version=2))
    with pytest.raises(ExportError, match="is no calibration table of schema version 1"):
        read_table(path, model_sha256=MODEL)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"step": 0.0}, "impossible factors"),
        ({"step": -0.1}, "impossible factors"),
        ({"step": float("inf")}, "impossible factors"),
        ({"step": float("nan")}, "impossible factors"),
        ({"channel_factors": [1.0, 0.0, 1.0, 1.0]}, "impossible factors"),
        ({"channel_factors": [1.0, float("nan"), 1.0, 1.0]}, "impossible factors"),
        ({"channel_factors": [1.0, 1.0]}, "impossible factors"),
        ({"channel_factors": [[1.0], [1.0], [1.0], [1.0]]}, "impossible factors"),
        ({"rows": "static", "row_factors": [1.0, -1.0]}, "impossible factors"),
        ({"rows": "static", "row_factors": None}, "impossible row factors"),
        ({"rows": "none", "row_factors": [1.0]}, "impossible row factors"),
        ({"rows": "sideways"}, "impossible row factors"),
        ({"width": "many"}, "is incomplete"),
        ({"channel_factors": ["a"] * WIDTH}, "is incomplete"),
    ],
)
def test_factors_that_can_not_be_are_refused(change: dict[str, Any], said: str) -> None:
    entry = {**_table().activations["h"], **change}
    with pytest.raises(ExportError, match=f"entry for 'h' .*{said}|entry for 'h' {said}"):
        choice_from("h", entry)


@pytest.mark.parametrize("key", ["step", "rows", "row_factors", "channel_factors", "width", "snr_db"])
def test_a_missing_value_is_refused(key: str) -> None:
    entry = dict(_table().activations["h"])
    del entry[key]
    with pytest.raises(ExportError, match=f"entry for 'h' is incomplete: '{key}'"):
        choice_from("h", entry)


# --- merging


def test_merging_one_table_changes_nothing() -> None:
    assert merged([_table()]) == _table()


@settings(max_examples=20, deadline=None)
@given(first=st.integers(1, 20), second=st.integers(1, 20), seed=st.integers(0, 1000))
def test_pooled_statistics_are_those_of_one_run_over_both(first: int, second: int, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((first + second, TOKENS, WIDTH)).astype(np.float32)
    runs = [_roles(x, np.arange(first)), _roles(x, np.arange(first, first + second))]
    tables = [_with_roles(each) for each in runs]
    _assert_close(merged(tables).activations["h"]["roles"], _roles(x, np.arange(first + second)))


@settings(max_examples=20, deadline=None)
@given(steps=st.lists(st.floats(1e-6, 1e3), min_size=2, max_size=4), seed=st.integers(0, 100))
def test_the_largest_range_wins_in_any_order(steps: list[float], seed: int) -> None:
    tables = [_table(_choice(step), seed=i, images=3 + i) for i, step in enumerate(steps)]
    shuffled = [tables[i] for i in np.random.default_rng(seed).permutation(len(tables))]
    one, other = (merged(each).activations["h"] for each in (tables, shuffled))
    assert one["step"] == other["step"] == max(steps)
    _assert_close(one["roles"], other["roles"])


def test_merging_is_associative() -> None:
    a, b, c = (_table(_choice(0.01 * (i + 1)), seed=i, images=4 + i) for i in range(3))
    left, right = merged([merged([a, b]), c]).activations["h"], merged([a, merged([b, c])]).activations["h"]
    assert left["step"] == right["step"]
    _assert_close(left["roles"], right["roles"])


def test_row_factors_are_the_largest_of_each_row() -> None:
    one, other = _table(_choice(rows=(1.0, 5.0, 1.0))), _table(_choice(rows=(2.0, 3.0, 1.0)), images=9)
    assert merged([one, other]).activations["h"]["row_factors"] == [2.0, 5.0, 1.0]


def test_finer_formats_are_merged_each_by_itself() -> None:
    few, many = (_finer(8, (0.5, 0.1)), _finer(30, (0.2, 0.3)))
    for tables in ([few, many], [many, few]):
        entry = merged(tables).activations["h"]
        assert (entry["step"], [each["step"] for each in entry["finer"]]) == (0.5, [0.3])
        assert [each.activation.format for each in choices_from("h", entry)] == [FP8, INT8]


@pytest.mark.parametrize("other", ["int8", "more"])
def test_tables_of_different_formats_are_not_merged(other: str) -> None:
    first = _finer(8, (0.5, 0.1))
    entry = dict(first.activations["h"])
    second = {"int8": _table(), "more": replace(first, activations={"h": {**entry, "finer": [*entry["finer"]] * 2}})}[
        other
    ]
    for tables in ([first, second], [second, first]):
        with pytest.raises(ExportError, match="of different precisions can't be merged"):
            merged(tables)


def test_channel_factors_are_one_for_all_formats() -> None:
    """They are folded into what makes the tensor, once."""
    with pytest.raises(ExportError, match="entry for 'h' holds impossible factors"):
        choices_from("h", activation_entry(_choice(factors=2.0), _of(INT8, 0.1)))


def _of(form: CodeFormat, step: float) -> Choice:
    chosen = _choice(step)
    return replace(chosen, activation=replace(chosen.activation, format=form))


def _finer(images: int, steps: tuple[float, float]) -> Table:
    """Of an FP8 build."""
    entry = activation_entry(_of(FP8, steps[0]), _of(INT8, steps[1]), roles=_seen(0, images).roles_as_dict())
    return replace(_table(), activations={"h": entry})


def test_different_factors_are_those_of_the_run_that_saw_more() -> None:
    few, many = _table(_choice(0.9, factors=2.0), images=3), _table(_choice(0.1, factors=5.0), images=30)
    for tables in ([few, many], [many, few]):
        entry = merged(tables).activations["h"]
        assert entry["channel_factors"] == [5.0] * WIDTH
        assert entry["step"] == 0.1, "a step belongs to its own factors"


@pytest.mark.parametrize("other", ["model", "method", "tensors"])
def test_tables_that_do_not_belong_together_are_not_merged(other: str) -> None:
    first = _table()
    second = {
        "model": _table(model=OTHER),
        "method": Table(MODEL, "minmax", first.data, first.activations, first.gemms),
        "tensors": Table(MODEL, first.method, first.data, {"g": first.activations["h"]}, first.gemms),
    }[other]
    with pytest.raises(ExportError, match="different models or methods can't be merged"):
        merged([first, second])


def _roles(x: np.ndarray, ids: np.ndarray) -> dict[str, Any]:
    stats = ActivationStats("h", WIDTH, TOKENS, RegisterRows(count=1, patches=TOKENS - 1))
    stats.observe(x[ids], ids, ids % 4, np.ones(len(ids)))
    return stats.roles_as_dict()


def _with_roles(roles: dict[str, Any]) -> Table:
    return Table(MODEL, "outlier-aware", {}, {"h": activation_entry(_choice(), roles=roles)}, {})


def _assert_close(a: Any, b: Any) -> None:
    """Equal but for rounding."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            _assert_close(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            _assert_close(left, right)
    else:
        assert a == pytest.approx(b, rel=1e-6)


def test_the_rank_of_branches_is_that_of_every_run() -> None:
    asked = Table(MODEL, "outlier-aware", {"kind": "trajectory", "rank": 16}, {}, {})
    unasked = Table(MODEL, "outlier-aware", {"kind": "trajectory"}, {}, {})
    assert (asked.ranks, unasked.ranks) == ((16,), (None,))
    assert merged([asked, unasked]).ranks == (16, None)
