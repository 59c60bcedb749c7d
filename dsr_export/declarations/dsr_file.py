"""`--dsr FILE`: a TOML file that declares what is done to a model's tokens. Needs no torch.

```toml
[encoder]                # or [denoiser]
kind = "test-time"       # "trained" | "appended" | "test-time" | "none"; for a denoiser "diffusion" | "none"
registers = 1
scale = 1.0              # or one per register
normal_values = "zero"   # zero | mean | only_outliers | same
neurons = "neurons.json" # relative to this file
[denoiser]
kind = "diffusion"
start = 8
register_file = "r.safetensors" # `registers` [R, D] to insert into a diffusers model, relative to this file
[[denoiser.replace]]
layers = [4, 8]
rule = "median"          # absolute | median | sigma
threshold = 4.0
rounds = 2
choice = "nearest"       # nearest | gate | mask | clip
registers = "diffusion"  # the model's own, or a .safetensors file relative to this file; `fit` takes a number too
stream = "image"         # image | text, where a model keeps the prompt's tokens beside the image's
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dsr_export.declarations.neuron_table import read_neurons
from dsr_export.declarations.toml_file import read_toml
from dsr_export.declarations.toml_table import Table, is_number
from dsr_export.errors import ExportError
from dsr_export.limits import MOST_REGISTERS, MOST_ROUNDS
from dsr_export.spec import DenoiserSpec, DsrSpec, EncoderSpec, ReplaceSpec
from graphs.digests import bytes_digest, files_digest

OWN = "diffusion"  # ReplaceSpec.registers: the model's own
_TEST_TIME_ONLY = ("scale", "normal_values", "neurons")
_DIFFUSION_ONLY = ("registers", "start", "register_file")


@dataclass(frozen=True, kw_only=True)
class DsrFile:
    """A file's content. `files` are the ones it names; `given` the keys present, such as `denoiser.start`.

    `register_file` holds registers for a model that has none of its own. `to_train` tells of replacement groups, by
    their place, how many registers `fit` is to make for them; an encoder's `appended` ones without a file are made too.
    """

    spec: DsrSpec
    files: tuple[Path, ...]
    given: frozenset[str]
    register_file: Path | None = None
    to_train: Mapping[int, int] = field(default_factory=dict)

    @property
    def named(self) -> tuple[Path, ...]:
        """Every file that it names."""
        return self.files if self.register_file is None else (*self.files, self.register_file)


def read_dsr_file(path: Path, *, trainable: bool = False) -> DsrFile:
    """Reads and checks `path`. Where `registers` is left out, 0 stands for the model's own number.

    With `trainable`, a replacement group may give a number of registers that are yet to be made.

    Raises ExportError, with a hint, for a file that is missing or no TOML, unknown tables and keys, values of a wrong
    type or outside their range, keys that do not fit the kind, and files that are missing or malformed.
    """
    root = Table(str(path), read_toml(path, "--dsr", what="a declaration is a few tables; neurons have a file"))
    root.check_keys("encoder", "denoiser")
    if not root.values:
        raise ExportError(f"{path} declares nothing", hint="give it a table [encoder] or [denoiser]")
    tables = {name: _table(root, name) for name in root.values}
    encoder = _encoder(path, tables["encoder"]) if "encoder" in tables else EncoderSpec()
    if encoder.kind == "appended" and not encoder.register_file and not trainable:
        raise _yet_to_be_trained(path, encoder.registers)
    denoiser = _denoiser(path, tables["denoiser"]) if "denoiser" in tables else DenoiserSpec()
    inserted = _inserted(path, tables["denoiser"]) if "denoiser" in tables else None
    to_train = _to_train(tables["denoiser"]) if "denoiser" in tables else {}
    if to_train and not trainable:
        raise _yet_to_be_trained(path, sum(to_train.values()))
    return DsrFile(
        spec=DsrSpec(encoder=encoder, denoiser=denoiser),
        files=(*_files(path, tables, denoiser), *([] if inserted is None else [inserted])),
        register_file=inserted,
        to_train=to_train,
        given=frozenset(name for name in tables) | {f"{name}.{key}" for name, t in tables.items() for key in t.values},
    )


def _yet_to_be_trained(path: Path, count: int) -> ExportError:
    return ExportError(
        f"{path} asks for {count} registers that are yet to be trained",
        hint=f"`dsr-export fit MODEL --dsr {path}` makes them, and the file that names them",
    )


def dsr_digest(path: Path) -> str:
    """sha256 over the file and every file it names: equal digests declare the same."""
    files = (path, *read_dsr_file(path).files)
    return bytes_digest(*(bytes.fromhex(files_digest([file])) for file in files))  # bytes can't move between files


def _table(root: Table, name: str) -> Table:
    values = root.values[name]
    if not isinstance(values, dict):
        raise ExportError(f"{root.where}: '{name}' is not a table", hint=f"write [{name}] on a line of its own")
    return Table(f"{root.where}: [{name}]", values)


def _encoder(path: Path, table: Table) -> EncoderSpec:
    table.check_keys("kind", "registers", "register_file", *_TEST_TIME_ONLY)
    kind = table.word("kind", None, ("trained", "appended", "test-time", "none"))
    if kind == "appended":
        return _appended(path, table)
    _refuse(table, kind, ("register_file",))
    if kind != "test-time":
        _refuse(table, kind, _TEST_TIME_ONLY if kind == "trained" else (*_TEST_TIME_ONLY, "registers"))
        return EncoderSpec(kind=kind, registers=table.integer("registers", 0, most=MOST_REGISTERS))
    registers = table.integer("registers", 1, least=1, most=MOST_REGISTERS)
    table.require("neurons", '"neurons.json"')
    return EncoderSpec(
        kind=kind,
        registers=registers,
        scale=_scale(table, registers),
        normal_values=table.word("normal_values", "zero", ("zero", "mean", "only_outliers", "same")),
        neurons=read_neurons(path.parent / table.text("neurons", "")),
    )


def _appended(path: Path, table: Table) -> EncoderSpec:
    """Trained rows from a file, or their number where they are to be trained."""
    _refuse(table, "appended", _TEST_TIME_ONLY)
    file = _inserted(path, table)
    if file is None:
        table.require("registers", "4")
    registers = table.integer("registers", 0, least=0 if file else 1, most=MOST_REGISTERS)
    return EncoderSpec(kind="appended", registers=registers, register_file="" if file is None else str(file))


def _scale(table: Table, registers: int) -> tuple[float, ...]:
    value = table.values.get("scale", 1.0)
    scales = value if isinstance(value, list) else [value]
    if not scales or not all(is_number(each) for each in scales):
        raise table.wrong("scale", value, "a finite number, or a list of one per register")
    if isinstance(value, list) and len(scales) != registers:
        raise ExportError(
            f"{table.where}: {len(scales)} scales for {registers} registers", hint="give one, or one per register"
        )
    return tuple(float(each) for each in scales)


def _denoiser(path: Path, table: Table) -> DenoiserSpec:
    table.check_keys("kind", *_DIFFUSION_ONLY, "replace")
    implied = "diffusion" if any(key in table for key in _DIFFUSION_ONLY) else "none"
    kind = table.word("kind", implied, ("diffusion", "none"))
    if kind == "none":
        _refuse(table, kind, _DIFFUSION_ONLY)
    groups = table.values.get("replace", [])
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise ExportError(f"{table.where}: 'replace' is no list of tables", hint="write [[denoiser.replace]]")
    named = [Table(f"{path}: [[denoiser.replace]] {i}", group) for i, group in enumerate(groups, start=1)]
    return DenoiserSpec(
        kind=kind,
        registers=table.integer("registers", 0, most=MOST_REGISTERS),
        start=table.integer("start", 0),
        replace=tuple(_replace(path, group) for group in named),
    )


def _replace(path: Path, table: Table) -> ReplaceSpec:
    table.check_keys("layers", "rule", "threshold", "rounds", "choice", "registers", "stream")
    layers = table.integers("layers", "[4, 8]")
    if len(set(layers)) != len(layers):
        raise ExportError(f"{table.where}: layers {list(layers)} repeat one", hint="one replacement per layer")
    threshold = table.number("threshold", "4.0")
    if threshold <= 0:
        raise table.wrong("threshold", threshold, "a positive number")
    return ReplaceSpec(
        layers=layers,
        rule=table.word("rule", None, ("absolute", "median", "sigma")),
        threshold=threshold,
        rounds=table.integer("rounds", 1, least=1, most=MOST_ROUNDS),
        choice=table.word("choice", "nearest", ("nearest", "gate", "mask", "clip")),
        registers=_registers(path, table),
        stream=table.word("stream", "image", ("image", "text")),
    )


def _registers(path: Path, table: Table) -> str:
    if type(table.values.get("registers")) is int:
        table.integer("registers", 1, least=1, most=MOST_REGISTERS)
        table.word("choice", "nearest", ("nearest", "gate"))  # the others read no register
        return OWN
    name = table.text("registers", OWN)
    if name == OWN:
        return name
    return str(_safetensors(path, table, "registers", f'"{OWN}" or a .safetensors file'))


def _to_train(table: Table) -> dict[int, int]:
    """How many registers are to be made, by the place of their group."""
    counts = [group.get("registers") for group in table.values.get("replace", [])]
    return {i: count for i, count in enumerate(counts) if type(count) is int}


def _inserted(path: Path, table: Table) -> Path | None:
    """The file of registers to insert, where one is named."""
    return _safetensors(path, table, "register_file", "a .safetensors file") if "register_file" in table else None


def _safetensors(path: Path, table: Table, key: str, wanted: str) -> Path:
    name = table.text(key, "")
    if not name.endswith(".safetensors"):
        raise table.wrong(key, name, wanted)
    file = path.parent / name
    if not file.is_file():
        raise ExportError(f"{table.where}: no such file: {file}", hint="the path is relative to the TOML file")
    return file


def _refuse(table: Table, kind: str, keys: tuple[str, ...]) -> None:
    for key in keys:
        if key in table:
            raise ExportError(
                f"{table.where}: kind '{kind}' takes no '{key}'", hint=f"remove '{key}', or correct the kind"
            )


def _files(path: Path, tables: dict[str, Table], denoiser: DenoiserSpec) -> tuple[Path, ...]:
    encoder = tables.get("encoder")
    keys = ("neurons", "register_file")
    neurons = [path.parent / encoder.values[key] for key in keys if encoder is not None and key in encoder]
    return (*neurons, *(Path(group.registers) for group in denoiser.replace if group.registers != OWN))
