"""What the tests of attached parts share."""

from __future__ import annotations

import pytest

from dsr_export.bundle.reader import Bundle
from tests.diffusers.handmade_parts import handmade_bundle


@pytest.fixture(scope="package")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Of every part that `handmade_pipe` has."""
    return handmade_bundle(tmp_path_factory.mktemp("handmade"))
