"""What `--dsr FILE` declares, taken into a request. Needs no torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from dsr_export.declarations.dsr_file import DsrFile, read_dsr_file
from dsr_export.errors import ExportError
from dsr_export.families.request import FamilyRequest

Stage = Literal["denoiser", "encoder", "decoder"]


def with_declaration(asked: FamilyRequest, stage: Stage) -> FamilyRequest:
    """`asked` with what its `dsr` file declares in the other fields, in place of the file.

    Raises ExportError where the file declares another stage than the model is, or what an option says already.
    """
    if asked.dsr is None:
        return asked
    file = read_dsr_file(asked.dsr)
    _check_stage(asked.model, stage, asked.dsr, file)
    taken = {"encoder": file.spec.encoder} if stage == "encoder" else _denoiser(asked.dsr, file, asked)
    return replace(asked, **{"dsr": None, **taken})


def _check_stage(name: str, stage: Stage, path: Path, file: DsrFile) -> None:
    tables = sorted(key for key in file.given if "." not in key)
    wrong = [table for table in tables if table != stage]
    if wrong:
        wanted = "it takes no --dsr" if stage == "decoder" else f"give it a table [{stage}]"
        raise ExportError(f"{path} declares [{wrong[0]}], and {name} is no {wrong[0]}", hint=wanted)


def _denoiser(path: Path, file: DsrFile, asked: FamilyRequest) -> dict[str, Any]:
    """What the file leaves out stays the model's own."""
    spec, made = file.spec.denoiser, dict[str, Any]()
    options: dict[str, Any] = {}
    removes = "denoiser.kind" in file.given and spec.kind == "none"
    if spec.registers or removes:
        if asked.registers not in (None, spec.registers):
            raise ExportError(
                f"--registers {asked.registers} and {path} ({spec.registers}) differ", hint="leave one of them out"
            )
        made["registers"] = spec.registers
    if "denoiser.start" in file.given:
        options["register_start"] = spec.start
    if file.register_file is not None:
        options["register_file"] = str(file.register_file)
    if "denoiser.replace" in file.given:
        if asked.replace is not None:
            raise ExportError(f"replacement is given twice, in {path} too", hint="leave one of them out")
        made["replace"] = spec.replace
    return {**made, "options": {**options, **asked.options}}
