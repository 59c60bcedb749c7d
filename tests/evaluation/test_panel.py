"""What a network makes of pictures, and networks that make nothing of them."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from dsr_export.errors import ExportError
from dsr_export.evaluation.features.extractor import Extracted
from dsr_export.evaluation.metrics import parsed
from dsr_export.evaluation.panel import Panel
from dsr_export.evaluation.parts import Part
from tests.evaluation.made import Blocks, drawn

PICTURES = drawn(Part(0, 0, 4))


class _Broken(Blocks):
    def __call__(self, pictures: Any) -> Extracted:
        made = super().__call__(pictures)
        return Extracted(made.features, np.where(np.arange(4) == 2, np.nan, made.features[:, :4]))


def _nothing(pictures: Any, other: Any) -> np.ndarray:
    return np.array([0.1, np.nan, 0.2, 0.3])


@pytest.mark.parametrize(
    ("metric", "held"),
    [
        ("clip", {"clip": _nothing}),
        ("lpips", {"lpips": _nothing}),
        ("is", {"extractors": {"fid": _Broken()}}),
    ],
)
def test_a_network_that_makes_no_numbers_is_refused(metric: str, held: dict[str, Any]) -> None:
    panel = Panel(metrics=parsed(metric), **held)
    of_side = partial(panel.of_side, PICTURES, np.arange(4), ("a",) * 4)
    with pytest.raises(ExportError, match="NaN or infinities") as caught:
        (partial(panel.of_pairs, PICTURES, PICTURES) if metric == "lpips" else of_side)()
    assert metric.replace("is", "fid") in caught.value.message
