"""The packaged models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dsr_export.errors import ExportError
from dsr_export.families import load_subject
from dsr_export.families.network_parts.randomise import drawn
from dsr_export.families.rae_dit.digits import MAGNITUDES, packaged_config, packaged_settings, plant_outliers
from dsr_export.families.rae_dit.network import RaeDit
from dsr_export.subject import Subject
from dsr_export.training import digits as training

CORNERS = (0, 7, 56, 63)


def _output(subject: Subject, batch: int = 3) -> Tensor:
    inputs = subject.example(batch, seed=0)
    return subject.module(**{name: torch.from_numpy(value) for name, value in inputs.items()})  # type: ignore[no-any-return]


def _norms(subject: Subject) -> list[Tensor]:
    """Token norms [batch, patches] of each block's own output, before any replacement."""
    norms: list[Tensor] = []
    for block in subject.module.blocks:  # type: ignore[union-attr]
        block.register_forward_hook(lambda _, inputs, out: norms.append(out.norm(dim=-1)[:, -64:]))
    _output(subject)
    return norms


@pytest.mark.parametrize("name", ["digits", "digits-outliers"])
def test_packaged_models_load_alone(name: str) -> None:
    subject = load_subject(name)
    assert _output(subject).isfinite().all()
    assert subject.dsr.sites()["ReplaceOutliers"] == len(subject.module.replacements) > 0  # type: ignore[arg-type]
    assert (subject.dsr.denoiser.registers, subject.dsr.denoiser.start) == (4, 2)
    assert subject.sampler is not None and (subject.sampler.guidance, subject.sampler.null_label) == (2.0, 10)
    assert len(subject.provenance["checkpoint_sha256"]) == 64
    assert subject.provenance.get("edit") == ("plant_outliers" if name == "digits-outliers" else None)


def test_architecture_is_written_down_once() -> None:
    assert packaged_config() == training.CONFIG
    assert packaged_settings()["model"].items() <= load_subject("digits").config.items()


def test_outliers_stand_out_in_every_block_until_they_are_replaced() -> None:
    for plain in _norms(load_subject("digits-outliers", replace=())):
        assert (plain[:, CORNERS] > 3 * plain.median(dim=1, keepdim=True).values).all()
    norms = _norms(load_subject("digits-outliers"))
    assert norms[3][:, CORNERS].min() > 2 * norms[4][:, CORNERS].max()


def test_replacing_outliers_changes_the_output() -> None:
    with_sites, without = load_subject("digits-outliers"), load_subject("digits-outliers", replace=())
    assert (_output(with_sites) - _output(without)).abs().max() > 1e-2


def test_planting_is_deterministic_and_touches_four_rows() -> None:
    first, second, plain = (drawn(RaeDit, packaged_config(), 0) for _ in range(3))
    plant_outliers(first)
    plant_outliers(second)
    changed = (first.pos_embed - plain.pos_embed)[0].norm(dim=-1)
    assert torch.equal(first.pos_embed, second.pos_embed)
    assert changed.nonzero().flatten().tolist() == list(CORNERS)
    torch.testing.assert_close(changed[list(CORNERS)], 8 * torch.tensor(MAGNITUDES))


def test_a_checkpoint_or_seed_replaces_the_packaged_weights(tmp_path: Path) -> None:
    random = load_subject("digits", random_weights=3)
    assert random.provenance == {"random_seed": 3}
    state = {name: value for name, value in random.module.state_dict().items() if "replacements" not in name}
    torch.save({"step": 1, "ema": state}, tmp_path / "a.pt")
    assert torch.equal(_output(load_subject("digits", checkpoint=tmp_path / "a.pt")), _output(random))


def test_without_registers_there_is_no_packaged_replacement() -> None:
    subject = load_subject("digits", random_weights=0, registers=0)
    assert subject.dsr.denoiser.kind == "none" and subject.dsr.denoiser.replace == ()


def test_packaged_weights_refuse_other_registers() -> None:
    with pytest.raises(ExportError) as caught:
        load_subject("digits", registers=9)
    assert "--registers 4" in str(caught.value.hint)
