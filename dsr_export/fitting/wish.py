"""What a `dsr.toml` asks to be trained, and the same file as it is once that is done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dsr_export.declarations.dsr_file import OWN, DsrFile, read_dsr_file
from dsr_export.diagnosis.declaration import group_lines
from dsr_export.errors import ExportError
from dsr_export.spec import EncoderSpec, ReplaceSpec, Stream

DSR_FILE = "dsr.toml"
REGISTERS_FILE = "registers.safetensors"
_MADE = "# Made by `dsr-export fit`: `build --dsr` takes it as it is, with the files beside it."


@dataclass(frozen=True, kw_only=True)
class TrainedFile:
    """One file that is made: `count` registers, and a gate where `gate` is set. `layers` is empty for inserted ones."""

    name: str
    count: int
    gate: bool = False
    stream: Stream = "image"
    layers: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Wish:
    """`files` are to be trained; `kept`, by the names they get, are the user's and stay as they are.

    `text` is the finished declaration. `groups` are its replacement groups.
    """

    files: tuple[TrainedFile, ...]
    kept: Mapping[str, Path]
    groups: tuple[ReplaceSpec, ...]
    text: str


def read_wish(path: Path, *, own: int, start: int = 0) -> Wish:
    """Reads `--dsr` of `fit`. `own` is how many registers the model has already, from block `start` on.

    These are not trained, and the finished file declares them: the same model as an ONNX graph does not tell of them.

    Raises ExportError for what `read_dsr_file` refuses, and for a file that leaves nothing to train.
    """
    file = read_dsr_file(path, trainable=True)
    if {"encoder", "denoiser"} <= file.given:
        raise ExportError(
            f"{path} declares [encoder] and [denoiser], and one model is one of them",
            hint="give each a file of its own",
        )
    if "encoder" in file.given:
        return _encoder_wish(path, file.spec.encoder)
    inserted = _inserted(path, file, own)
    kept: dict[str, Path] = {}
    groups, files = [], [] if inserted is None else [inserted]
    for i, group in enumerate(file.spec.denoiser.replace):
        if i in file.to_train:
            name = f"site-{i + 1}.safetensors"
            gate = group.choice == "gate"
            files.append(
                TrainedFile(name=name, count=file.to_train[i], gate=gate, stream=group.stream, layers=group.layers)
            )
            groups.append(replace(group, registers=name))
        elif group.registers != OWN:
            kept[f"kept-{i + 1}.safetensors"] = Path(group.registers)
            groups.append(replace(group, registers=f"kept-{i + 1}.safetensors"))
        else:
            groups.append(group)
    if file.register_file is not None:
        kept[REGISTERS_FILE] = file.register_file
    if not files:
        raise ExportError(
            f"{path} leaves nothing to train",
            hint='write registers = 8 in a [[denoiser.replace]] with choice = "gate", or registers = 16 in [denoiser]',
        )
    return Wish(files=tuple(files), kept=kept, groups=tuple(groups), text=_text(file, groups, own, start))


def _encoder_wish(path: Path, spec: EncoderSpec) -> Wish:
    if spec.kind != "appended" or spec.register_file:
        raise ExportError(f"{path} leaves nothing to train", hint='write kind = "appended" and registers = 4')
    lines = [_MADE, "[encoder]", 'kind = "appended"', f"registers = {spec.registers}"]
    text = "\n".join([*lines, f"register_file = {json.dumps(REGISTERS_FILE)}"]) + "\n"
    made = TrainedFile(name=REGISTERS_FILE, count=spec.registers)
    return Wish(files=(made,), kept={}, groups=(), text=text)


def _inserted(path: Path, file: DsrFile, own: int) -> TrainedFile | None:
    """The registers to insert into a model that has none."""
    spec = file.spec.denoiser
    if own or file.register_file is not None or not spec.registers:
        return None
    if "denoiser.start" not in file.given:
        raise ExportError(f"{path} does not say where its registers enter", hint="write start = 4 in [denoiser]")
    return TrainedFile(name=REGISTERS_FILE, count=spec.registers)


def _text(file: DsrFile, groups: list[ReplaceSpec], own: int, start: int) -> str:
    lines = [_MADE]
    spec = file.spec.denoiser
    if own:
        lines += ["[denoiser]", 'kind = "diffusion"', f"registers = {own}", f"start = {start}"]
    elif spec.kind == "diffusion" or "denoiser.kind" in file.given:
        lines += ["[denoiser]", f'kind = "{spec.kind}"']
        lines += [f"registers = {spec.registers}"] if spec.registers else []
        lines += [f"start = {spec.start}"] if "denoiser.start" in file.given else []
        given = spec.registers or file.register_file is not None
        lines += [f"register_file = {json.dumps(REGISTERS_FILE)}"] if given else []
    for group in groups:
        lines += ["", "[[denoiser.replace]]", *group_lines(group)]
    return "\n".join(lines) + "\n"
