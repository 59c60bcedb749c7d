"""What identifies a PyTorch reference in the cache."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dsr_export.evaluation.references import subject_digest
from dsr_export.spec import DenoiserSpec, DsrSpec, ReplaceSpec


def _subject(registers: str) -> Any:
    group = ReplaceSpec(layers=(1,), rule="absolute", threshold=1.0, choice="gate", registers=registers)
    dsr = DsrSpec(denoiser=DenoiserSpec(replace=(group,)))
    return SimpleNamespace(provenance={"sha256": "0"}, config={}, dsr=dsr)


def test_registers_of_a_file_count_by_its_content(tmp_path: Path) -> None:
    file = tmp_path / "gate.safetensors"
    file.write_bytes(b"one")
    before = subject_digest(_subject(str(file)))
    assert subject_digest(_subject(str(file))) == before != subject_digest(_subject("diffusion"))
    file.write_bytes(b"two")
    assert subject_digest(_subject(str(file))) != before
