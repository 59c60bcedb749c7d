"""What was measured with other code, packages or GPU is not taken from the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsr_export.evaluation import measured_with
from dsr_export.evaluation.data import data_moments
from dsr_export.evaluation.drawers import Drawn
from dsr_export.evaluation.evaluate import Asked, drawn_key
from dsr_export.evaluation.metrics import parsed
from dsr_export.evaluation.panel import Panel
from dsr_export.progress import Silent
from dsr_export.storage.cache import StageCache
from tests.evaluation.made import Blocks

OTHERS: list[tuple[str, Any]] = [
    ("compute_capability", "8.9"),
    ("source_digest", "other code"),
    ("tool_versions", {"onnxruntime": "0.1"}),
]


def _key() -> dict[str, Any]:
    metrics = parsed("fid")
    asked = Asked(count=9, metrics=metrics, drawn=Drawn())
    return drawn_key(asked, Panel(metrics=metrics, extractors={"fid": Blocks()}))


@pytest.mark.parametrize(("name", "value"), OTHERS)
def test_parts_of_another_machine_or_version_are_others(name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _key()
    assert _key() == before
    monkeypatch.setattr(measured_with, name, lambda: value)
    assert _key() != before


def test_features_of_the_data_are_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "data.npz", np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3)).astype(np.uint8))
    calls = []

    class Counted(Blocks):
        def __call__(self, pictures: Any) -> Any:
            calls.append(len(pictures))
            return super().__call__(pictures)

    for version in ("1", "1", "2"):
        monkeypatch.setattr(measured_with, "tool_versions", lambda version=version: {"pillow": version})
        data_moments(tmp_path / "data.npz", {"fid": Counted()}, StageCache(tmp_path / "cache"), Silent())
    assert calls == [32, 8, 32, 8]
