"""`taps.npz`: what is written is read, and anything else is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsr_export.errors import ExportError
from dsr_export.sites.tap_file import GRAPH, TORCH, ReferenceTap, Taps
from dsr_export.storage.npz_file import read_npz
from graphs.observe.sites import Site
from graphs.observe.tap_samples import Sample


@pytest.fixture
def taps(rng: np.random.Generator) -> Taps:
    block = Site(tensor="blocks.0/Add", module="blocks.0", group="blocks.0", shape=(6, 8), outer=True)
    head = Site(tensor="head/Gemm", module="head", group="head", shape=(5,))
    x = rng.standard_normal((3, 2)).astype(np.float32)
    samples = [Sample.of(rng.standard_normal((3, *site.shape)).astype(np.float32), 40) for site in (block, head)]
    return Taps({"x": x}, [ReferenceTap(block, samples[0], TORCH), ReferenceTap(head, samples[1], GRAPH)])


def test_what_is_written_is_read(taps: Taps, tmp_path: Path) -> None:
    path = tmp_path / "taps.npz"
    taps.save(path)
    read = Taps.from_arrays(read_npz(path), where=path)
    np.testing.assert_array_equal(read.inputs["x"], taps.inputs["x"])
    assert [(tap.site, tap.source) for tap in read.taps] == [(tap.site, tap.source) for tap in taps.taps]
    for ours, theirs in zip(taps.taps, read.taps, strict=True):
        np.testing.assert_array_equal(ours.sample.values, theirs.sample.values)
        np.testing.assert_array_equal(ours.sample.norms, theirs.sample.norms)


def _site(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def edit(arrays: dict[str, Any]) -> None:
        index = json.loads(arrays["sites"].tobytes())
        index[0].update(changes)
        arrays["sites"] = np.frombuffer(json.dumps(index).encode(), np.uint8)

    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda arrays: arrays.pop("norms"), "lacks the array 'norms'"),
        (lambda arrays: arrays.update(values=arrays["values"][:-1]), "'values' does not fit"),
        (lambda arrays: arrays.update(norms=np.append(arrays["norms"], np.float32(1))), "'norms' does not fit"),
        (lambda arrays: arrays.update(values=arrays["values"].astype(np.float64)), "'values' does not fit"),
        (lambda arrays: arrays.pop("in/x"), "different numbers of images, or none"),
        (_site(shape=[0, 8]), "shape"),
        (_site(shape=[2**30, 8]), "shape"),
        (_site(kept=9), "kept"),
        (_site(source="hearsay"), "source"),
        (_site(outer="yes"), "outer"),
        (_site(extra=1), "extra"),
    ],
)
def test_what_does_not_fit_is_refused(
    taps: Taps, edit: Callable[[dict[str, Any]], None], said: str, tmp_path: Path
) -> None:
    taps.save(tmp_path / "taps.npz")
    arrays = read_npz(tmp_path / "taps.npz")
    edit(arrays)
    with pytest.raises(ExportError) as refused:
        Taps.from_arrays(arrays, where=tmp_path / "taps.npz")
    assert said in refused.value.message
