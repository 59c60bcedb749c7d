from __future__ import annotations

from pathlib import Path

from dsr_export.declarations.dsr_file import read_dsr_file
from dsr_export.diagnosis.declaration import denoiser_toml
from dsr_export.diagnosis.denoiser import DenoiserDiagnosis
from dsr_export.families import load_subject
from tests.diagnosis.conftest import diagnosed


def test_the_file_reads_back_as_what_was_proposed(outliers: DenoiserDiagnosis, tmp_path: Path) -> None:
    toml = denoiser_toml(outliers)
    assert toml is not None
    (tmp_path / "dsr.toml").write_text(toml)
    spec = read_dsr_file(tmp_path / "dsr.toml").spec.denoiser
    assert spec.replace == outliers.replace
    assert (spec.kind, spec.registers, spec.start) == ("diffusion", 4, 2)


def test_a_model_declared_with_it_has_no_outliers_left(outliers: DenoiserDiagnosis, tmp_path: Path) -> None:
    (tmp_path / "dsr.toml").write_text(denoiser_toml(outliers) or "")
    again = diagnosed(load_subject("digits-outliers", dsr=tmp_path / "dsr.toml"))
    own = again.run("own")
    assert own is not None
    assert own.sites == (0,)
    assert again.off.ratios.all()
    assert not own.ratios.any()


def test_nothing_to_replace_is_no_file() -> None:
    assert denoiser_toml(diagnosed(load_subject("digits"))) is None
