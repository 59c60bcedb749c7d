"""What the tests on a GPU share: a GPU, bundles, and a place for measured figures.

Bundles are taken from the folder `DSR_GPU_BUNDLES` where it holds them (`digits-fp16.dsr`), since a device may have no
torch, and built otherwise. Figures go to `figures.json` in the folder `DSR_GPU_OUT`, where it is set.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dsr_export.backends.gpu import compute_capability
from dsr_export.bundle.reader import Bundle
from dsr_export.config import BatchRange, ExportConfig
from graphs.precisions import Precision
from tests.gpu.figures import Figures

BATCH = BatchRange(1, 2, 8)
Built = Callable[[str, Precision], Bundle]


@pytest.fixture(scope="session", autouse=True)
def capability() -> str:
    """Of the GPU at hand; without one, every test of this folder is skipped before anything is built."""
    found = compute_capability()
    if found is None:
        pytest.skip("no CUDA device here")
    return found


@pytest.fixture(scope="session")
def figures(capability: str) -> Figures:
    where = os.environ.get("DSR_GPU_OUT")
    made = Figures(Path(where) / "figures.json" if where else None)
    made.record("compute_capability", capability)
    return made


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, stage_cache: Path, capability: str) -> Built:
    """The bundle of a packaged model in a precision, for batches of 1 to 8."""
    given, out = os.environ.get("DSR_GPU_BUNDLES"), tmp_path_factory.mktemp("gpu-bundles")

    def find(name: str, precision: Precision) -> Bundle:
        folder = f"{name}-{precision}.dsr"
        for place in [*([Path(given)] if given else []), out]:
            if (place / folder).is_dir():
                return Bundle.open(place / folder)
        from dsr_export.pipeline import export

        asked = ExportConfig(model=name, precision=precision, batch=BATCH, targets=("onnxruntime",), out=out / folder)
        return export(asked)

    return find
