"""What is settled before an engine is built: where the new bundle goes, and what it is known by. Builds nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dsr_export.errors import ExportError
from dsr_export.recompiling.recompile import CompileRequest, _check_apart, _key, recompile

REQUEST = CompileRequest(bundle=Path("some/dit.dsr"), target="rtx:sm89")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "dit-rtx-sm89.dsr"),
        ({"component": "decoder"}, "dit-decoder-rtx-sm89.dsr"),
        ({"target": "rtx"}, "dit-rtx.dsr"),
        ({"bundle": Path("a/no-suffix")}, "no-suffix-rtx-sm89.dsr"),
        ({"out": Path("there/x")}, "there/x"),
    ],
)
def test_a_new_bundle_is_named_after_the_old_folder_and_the_target(changes: dict[str, Any], expected: str) -> None:
    assert replace(REQUEST, **changes).destination() == Path(expected)


def test_a_link_is_named_after_what_it_leads_to(tmp_path: Path) -> None:
    """Of two bundles behind links of one name, both stay."""
    (tmp_path / "real.dsr").mkdir()
    (tmp_path / "current").symlink_to(tmp_path / "real.dsr")
    assert replace(REQUEST, bundle=tmp_path / "current").destination() == Path("real-rtx-sm89.dsr")


def test_the_bundle_itself_may_be_replaced_but_nothing_around_or_inside_it(tmp_path: Path) -> None:
    bundle = tmp_path / "b.dsr"
    bundle.mkdir()
    (tmp_path / "link").symlink_to(bundle)
    for free in (bundle, tmp_path / "link", tmp_path / "b.dsr-2", tmp_path / "other"):
        _check_apart(bundle, free)
    for taken in (tmp_path, bundle / "new.dsr", tmp_path / "link" / "new.dsr"):
        with pytest.raises(ExportError, match="lie one in the other"):
            _check_apart(bundle, taken)


def test_a_missing_bundle_is_named_before_its_target_is_judged(tmp_path: Path) -> None:
    """What can be done there instead depends on its precision: see `tests/cli/test_refused_precisions.py`."""
    with pytest.raises(ExportError, match=r"none\.dsr does not exist"):
        recompile(replace(REQUEST, bundle=tmp_path / "none.dsr", target="onnxruntime"))


def test_whatever_changes_the_new_bundle_changes_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them alone; where it goes, and whose signature is asked for, does not."""
    bundle: Any = SimpleNamespace(manifest=SimpleNamespace(digest="0" * 64))
    other: Any = SimpleNamespace(manifest=SimpleNamespace(digest="1" * 64))
    first = _key(bundle, REQUEST)
    assert _key(bundle, replace(REQUEST, out=Path("x"), force=True)) == first
    keys = [
        first,
        _key(other, REQUEST),
        _key(bundle, replace(REQUEST, target="rtx")),
        _key(bundle, replace(REQUEST, component="decoder")),
    ]
    for place, value in (
        ("dsr_export.recompiling.recompile.compute_capability", lambda: "9.0"),
        ("dsr_export.recompiling.recompile.tool_versions", lambda: {"tensorrt-rtx": "9.9"}),
        ("dsr_export.recompiling.recompile.source_digest", lambda: "another"),
    ):
        with monkeypatch.context() as changed:
            changed.setattr(place, value)
            keys.append(_key(bundle, REQUEST))
    assert len(set(keys)) == len(keys)
