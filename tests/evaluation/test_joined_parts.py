"""A part of many pictures is drawn in pieces, and is what it would be at once."""

from __future__ import annotations

import numpy as np
import pytest

from dsr_export.evaluation import measured
from dsr_export.evaluation.drawers import Drawn
from dsr_export.evaluation.measured import Measuring
from dsr_export.evaluation.metrics import parsed
from dsr_export.evaluation.panel import Panel
from dsr_export.evaluation.parts import Part
from tests.evaluation.made import Blocks, drawn


def _measured(paired: bool, pieces: list[int]) -> dict[str, np.ndarray]:
    def draws(part: Part) -> np.ndarray:
        pieces.append(part.count)
        return drawn(part, noise=5)

    panel = Panel(metrics=parsed("fid,is,psnr,ssim" if paired else "fid,is"), extractors={"fid": Blocks()})
    other = drawn if paired else None
    made = Measuring(candidate=draws, reference=other, drawn=Drawn(), classes=10, panel=panel, key={})
    return made.part(Part(3, 30, 75))


@pytest.mark.parametrize("paired", [True, False])
def test_a_part_in_pieces_is_the_whole(paired: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[int] = []
    monkeypatch.setattr(measured, "AT_ONCE", 14)
    found = _measured(paired, pieces)
    assert pieces == [14, 14, 14, 14, 14, 5]  # memory does not grow with the part
    monkeypatch.setattr(measured, "AT_ONCE", 75)
    whole = _measured(paired, pieces)
    assert found.keys() == whole.keys()
    for name, value in whole.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-9, err_msg=name)
