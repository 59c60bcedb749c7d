"""One short diagnosis of the packaged model with planted outliers, shared by the tests."""

from __future__ import annotations

import pytest

from dsr_export.diagnosis.denoiser import DenoiserDiagnosis, diagnose_denoiser
from dsr_export.diagnosis.models.denoiser import DenoiserTokens
from dsr_export.diagnosis.walk import WalkSettings
from dsr_export.families import load_subject
from dsr_export.families.network_parts.trunk import Trunk
from dsr_export.progress import Silent
from dsr_export.subject import Subject

SHORT = WalkSettings(images=2, steps=3)


def diagnosed(subject: Subject, settings: WalkSettings = SHORT) -> DenoiserDiagnosis:
    assert isinstance(subject.module, Trunk)
    return diagnose_denoiser(subject, DenoiserTokens(subject.module), settings, Silent())


@pytest.fixture(scope="package")
def outliers() -> DenoiserDiagnosis:
    return diagnosed(load_subject("digits-outliers"))
