"""Random small modules are exported and make the same numbers as PyTorch, on rows that the export has not seen.

A failure prints its recipe; `faults(Recipe.of('...'), "fp32", path)` repeats it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from graphs.forms import FormName
from graphs.precisions import Precision
from graphs.targets import Target
from tests.generated.grammar import BLOCKS
from tests.generated.judging import faults
from tests.generated.random_modules import draw_recipe

FIXED = (0, 9, 17, 41, 44, 50, 61, 63, 153, 409, 566)  # few of the first 600 that hold every block together
MANY = 500
WIDE_AND_HALF: tuple[Precision, ...] = ("fp32", "fp16")
OTHERS: tuple[Precision, ...] = ("bf16", "int8")


def test_the_fixed_modules_hold_every_block() -> None:
    drawn = {kind for seed in FIXED for kind, _, _ in draw_recipe(seed).blocks}
    assert drawn == set(BLOCKS)


@pytest.mark.parametrize("seed", FIXED)
def test_random_modules_agree_with_pytorch(seed: int, tmp_path: Path) -> None:
    """In one precision each; the many have all."""
    _check(seed, WIDE_AND_HALF[seed % 2 : seed % 2 + 1], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1000 + MANY))
def test_many_random_modules_agree_with_pytorch(seed: int, tmp_path: Path) -> None:
    _check(seed, (*WIDE_AND_HALF, OTHERS[seed % 2]), tmp_path)


@pytest.fixture(autouse=True)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What engines are built from is judged as well, for every other seed: ONNX Runtime runs it here."""
    if request.node.callspec.params["seed"] // 2 % 2 if hasattr(request.node, "callspec") else False:

        def of(_: Target) -> FormName:
            return "engine"

        for where in ("dsr_export.building.build", "dsr_export.pipeline"):
            monkeypatch.setattr(f"{where}.form_of", of)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The precisions of one module share a trace, and nothing is left in the cache of the session."""
    monkeypatch.setenv("DSR_EXPORT_CACHE", str(tmp_path / "cache"))


def _check(seed: int, precisions: tuple[Precision, ...], folder: Path) -> None:
    recipe = draw_recipe(seed)
    found = [f"{p}: {fault}" for p in precisions for fault in faults(recipe, p, folder / f"{p}.dsr")]
    assert not found, "\n".join([recipe.text(), *found])
