"""Reference taps of a real build: PyTorch's own values where a module returns them, and wherever the graph is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dsr_export.bundle.reader import Bundle
from dsr_export.sites.module_outputs import ModuleOutput
from dsr_export.sites.tap_file import GRAPH, TORCH, Taps
from dsr_export.sites.tap_reference import reference_taps
from graphs.observe.sites import Site
from graphs.observe.tap_samples import INNER_VALUES, OUTER_VALUES, Sample


@pytest.fixture(scope="module")
def taps(digits_bundle: Path) -> Taps:
    bundle = Bundle.open(digits_bundle)
    return Taps.from_arrays(bundle.taps(), where=bundle.path)


def test_what_modules_return_is_pytorchs_own(taps: Taps) -> None:
    sources = {tap.site.tensor: tap.source for tap in taps.taps}
    modules = {tap.site.module for tap in taps.taps if tap.source == TORCH}
    for i in range(8):
        inside = ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.w12", "mlp.w3", "adaLN_modulation.1")
        assert {f"blocks.{i}", *(f"blocks.{i}.{name}" for name in inside)} <= modules
    assert {"replacements.2", "replacements.4", "x_embedder", "t_embedder.mlp.2", "final_layer.linear"} <= modules
    assert sources["blocks.3/Add_2"] == GRAPH  # between the branches: no module returns it


def test_the_curve_of_a_build_is_in_its_report(digits_bundle: Path) -> None:
    report = Bundle.open(digits_bundle).report()
    blocks = [point for point in report["sites"] if point["site"].startswith("blocks.")]
    assert [point["site"] for point in blocks] == [f"blocks.{i}" for i in range(8)]
    assert all(55 < point["snr_db"] < 90 for point in blocks)
    assert report["bisection"] is None
    assert {"blocks.3/Add_2", "dsr/lower/replacements.2/out"} <= {row["tensor"] for row in report["tensors"]}


def test_the_bundle_stays_small(digits_bundle: Path) -> None:
    assert (digits_bundle / "taps.npz").stat().st_size < 2_000_000
    assert sum(path.stat().st_size for path in digits_bundle.rglob("*") if path.is_file()) < 20_000_000


def test_the_same_build_gives_the_same_bytes(taps: Taps, digits_bundle: Path, tmp_path: Path) -> None:
    taps.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (digits_bundle / "taps.npz").read_bytes()


def _site(tensor: str, module: str) -> Site:
    return Site(tensor=tensor, module=module, group="blocks.0", shape=(6, 8), outer=tensor == "end")


def test_where_the_graph_is_wrong_pytorch_is_the_reference(rng: np.random.Generator) -> None:
    right, wrong = (rng.standard_normal((2, 6, 8)).astype(np.float32) for _ in range(2))
    found = [(_site("start", "blocks.0.norm"), Sample.of(right, INNER_VALUES))]
    found += [(_site("end", "blocks.0"), Sample.of(wrong, OUTER_VALUES))]
    modules = [ModuleOutput(path, (6, 8), Sample.of(right, OUTER_VALUES)) for path in ("blocks.0.norm", "blocks.0")]
    taps = reference_taps({"x": right}, found, modules).taps
    assert [tap.source for tap in taps] == [TORCH, TORCH]
    np.testing.assert_array_equal(taps[1].sample.values, Sample.of(right, OUTER_VALUES).values)


def test_without_modules_the_graph_is_the_reference(rng: np.random.Generator) -> None:
    value = rng.standard_normal((2, 6, 8)).astype(np.float32)
    (tap,) = reference_taps({"x": value}, [(_site("end", "blocks.0"), Sample.of(value, OUTER_VALUES))], []).taps
    assert tap.source == GRAPH


def test_a_table_that_a_module_returns_beside_its_output_is_no_reference(rng: np.random.Generator) -> None:
    """T5's attention returns its bias of positions, the same for each image, in the shape of the scores."""
    scores = rng.standard_normal((2, 3, 5, 5)).astype(np.float32)
    bias = np.repeat(rng.standard_normal((1, 3, 5, 5)).astype(np.float32), 2, axis=0)
    found = [(Site(tensor="a", module="m", group="m", shape=(3, 5, 5), outer=False), Sample.of(scores, INNER_VALUES))]
    returned = [ModuleOutput("m", (3, 5, 5), Sample.of(bias, INNER_VALUES))]
    (tap,) = reference_taps({}, found, returned).taps
    assert tap.source == GRAPH
    np.testing.assert_array_equal(tap.sample.values, found[0][1].values)
