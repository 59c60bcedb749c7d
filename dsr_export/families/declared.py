"""What `--dsr FILE` declares, as arguments of a family's `load`. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from dsr_export.declarations.dsr_file import DsrFile, read_dsr_file
from dsr_export.errors import ExportError
from dsr_export.spec import ReplaceSpec

Stage = Literal["denoiser", "encoder", "decoder"]


def with_declaration(
    name: str,
    stage: Stage,
    dsr: Path | None,
    *,
    registers: int | None,
    replace: Sequence[ReplaceSpec] | None,
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """`registers`, `replace` and `config` with the file's declaration, or `dsr` for an encoder.

    Raises ExportError where the file declares another stage than the model is, or what an option says already.
    """
    asked: dict[str, Any] = {"registers": registers, "replace": replace, "config": config}
    if dsr is None:
        return asked
    file = read_dsr_file(dsr)
    _check_stage(name, stage, dsr, file)
    return {**asked, "dsr": file.spec} if stage == "encoder" else _denoiser(dsr, file, asked)


def _check_stage(name: str, stage: Stage, path: Path, file: DsrFile) -> None:
    tables = sorted(key for key in file.given if "." not in key)
    wrong = [table for table in tables if table != stage]
    if wrong:
        wanted = "it takes no --dsr" if stage == "decoder" else f"give it a table [{stage}]"
        raise ExportError(f"{path} declares [{wrong[0]}], and {name} is no {wrong[0]}", hint=wanted)


def _denoiser(path: Path, file: DsrFile, asked: dict[str, Any]) -> dict[str, Any]:
    """What the file leaves out stays the model's own."""
    spec, made = file.spec.denoiser, dict(asked)
    removes = "denoiser.kind" in file.given and spec.kind == "none"
    if spec.registers or removes:
        if asked["registers"] not in (None, spec.registers):
            raise ExportError(
                f"--registers {asked['registers']} and {path} ({spec.registers}) differ", hint="leave one of them out"
            )
        made["registers"] = spec.registers
    if "denoiser.start" in file.given:
        made["config"] = {"register_start": spec.start, **made["config"]}
    if file.register_file is not None:
        made["config"] = {"register_file": str(file.register_file), **made["config"]}
    if "denoiser.replace" in file.given:
        if asked["replace"] is not None:
            raise ExportError(f"replacement is given twice, in {path} too", hint="leave one of them out")
        made["replace"] = spec.replace
    return made
