"""Rows of a pipeline's walk that nothing is calibrated on: from noise to picture, and kept with the golden vectors."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from dsr_export.config import BatchRange
from dsr_export.parity.golden.vectors import WALKED, Golden, make_golden
from dsr_export.sampling import seeded_noise
from dsr_export.walks.asked import SEED
from dsr_export.walks.rows import walked_rows
from dsr_export.walks.shipped_prompts import SHIPPED
from tests.int8.test_pipeline_data import calls_of, loaded, prompts_file, walk_of
from tests.pipelines.tiny_pipelines import tiny_pipeline

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers, of NumPy 2


def test_rows_are_of_the_first_the_middle_and_the_last_step_and_held_out(tmp_path: Path) -> None:
    tiny_pipeline("pixart-sigma", tmp_path)
    folder = tmp_path / "pipe"
    walk, subject = walk_of(folder, steps=5), loaded(folder)
    with subject.reference() as runner:
        rows = walked_rows(walk, subject.card(), runner, BatchRange(1, 1, 3))
        golden = make_golden(
            subject, runner, batch=BatchRange(1, 1, 2), sampler=None, progress=lambda _, __: None, walked=rows
        )
    assert {len(value) for value in rows.values()} == {12}  # two images, guided, of three steps
    noise = seeded_noise(SEED + 1, 2, walk.recipe(subject.card()).latent)
    np.testing.assert_array_equal(rows["hidden_states"][:4], np.concatenate([noise, noise]))
    _, calls = calls_of(walk, subject)
    assert [rows["timestep"][i] for i in (0, 4, 8)] == [calls[i].inputs["timestep"][0] for i in (0, 2, 4)]
    known = {row.tobytes() for call in calls for row in call.inputs["hidden_states"]}
    assert not known & {row.tobytes() for row in rows["hidden_states"]}
    case = golden.further[WALKED]
    with subject.reference() as runner:
        wanted = runner.infer(dict(case.inputs))
    np.testing.assert_allclose(case.outputs["out"], wanted["out"], rtol=0, atol=1e-4 * np.abs(wanted["out"]).max())
    golden.save(tmp_path / "golden.npz")
    with np.load(tmp_path / "golden.npz") as arrays:
        read = Golden.from_arrays(dict(arrays))
    np.testing.assert_array_equal(read.further[WALKED].inputs["hidden_states"], rows["hidden_states"])

    card = subject.card()
    assert walk.held_out(card).prompts == SHIPPED[-2:]
    large = walk.held_out(dataclasses.replace(card, parameters=200_000_000))
    assert (large.count, large.steps) == (1, 5)
    given = walk_of(folder, data=str(prompts_file(tmp_path, "a dog")))
    assert given.held_out(card).prompts == ("a dog",) and given.held_out(card).count == 2
