"""A `.pt2` archive as an exported program, with nothing executed that a model does not need.

`torch.export.load` isn't given the file: it falls back to full pickle wherever an entry asks for it or `weights_only`
fails; shape expressions go through `sympy.sympify`, which evaluates them; guards are executed as Python; argument names
are pasted into source that is executed; and a node may call anything below `torch`. So the archive is read here, by a
reader that takes ZIP files with one reading only; every value in it must be of the kind that torch's schema gives it,
and what was checked is what torch's deserializer gets, in memory: neither the file nor a pickle is opened again.
"""

from __future__ import annotations

import logging
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch._export.serde import schema
from torch._export.serde.serialize import ExportedProgramDeserializer, _dict_to_dataclass
from torch.export import ExportedProgram

from dsr_export.errors import ExportError
from dsr_export.program_archive.examples import read_examples
from dsr_export.program_archive.findings import DangerousError, MalformedError
from dsr_export.program_archive.form import parsed, shaped
from dsr_export.program_archive.payloads import read_payloads
from dsr_export.storage.zip_members import Members, read_members
from dsr_export.user_code.imported import described

_AGAIN = "make it again where you trust it: torch.export.save(torch.export.export(module, inputs), 'model.pt2')"
_MEMBERS = re.compile(
    r"byteorder|archive_format|archive_version|\.data/(version|serialization_id)|models/model\.json|extra/[^\\]*"
    r"|data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|data/sample_inputs/model\.pt"
)
_SAID = {"archive_format": b"pt2", "archive_version": b"0", "byteorder": b"little"}
_MOST_JSON, _MOST_EXAMPLES = 64 << 20, 1 << 30


def load_archive(path: Path) -> ExportedProgram:
    """The program that `torch.export.save` wrote to `path`, with its weights, constants and example inputs.

    Raises:
        ExportError: no such archive, one that could execute code, read or write files, or that asks for more memory
            than it has bytes for.
    """
    try:
        with path.open("rb") as stream:
            parts = _checked(read_members(stream))
    except DangerousError as error:
        raise ExportError(f"{path} is refused, as it could execute code: {error}", hint=_AGAIN) from error
    except (OSError, ValueError, RecursionError, struct.error, zlib.error) as error:
        raise ExportError(f"{path} is no readable exported program: {str(error)[:300]}", hint=_AGAIN) from error
    try:
        with _quiet():
            program, weights, constants, examples = parts
            made = ExportedProgramDeserializer().deserialize(program, weights, constants, examples)
    except Exception as error:  # torch raises whatever a damaged program runs it into
        raise ExportError(f"{path} is no readable exported program: {described(error)}", hint=_AGAIN) from error
    return made


def _checked(members: Members) -> tuple[Any, ...]:
    """The graph as torch's schema has it, weights, constants, and example inputs or None."""
    root = _root(members.by_name)
    for name, said in _SAID.items():
        if f"{root}/{name}" in members.by_name and members.read(f"{root}/{name}", most=64) != said:
            raise MalformedError(f"its {name} is not {said.decode()}")
    content = parsed(members.read(f"{root}/models/model.json", most=_MOST_JSON))
    checked = shaped(content, schema.ExportedProgram)
    program = _dict_to_dataclass(schema.ExportedProgram, checked)  # type: ignore[no-untyped-call]
    sample, examples = f"{root}/data/sample_inputs/model.pt", None
    if sample in members.by_name and members.by_name[sample][0].size:
        examples = read_examples(members.read(sample, most=_MOST_EXAMPLES))
    weights = read_payloads(members, root, "weights", "weight_")
    return program, weights, read_payloads(members, root, "constants", "tensor_"), examples


def _root(names: dict[str, Any]) -> str:
    """The folder that everything is in. Raises where anything else is in it than `torch.export.save` writes."""
    if any(name.rpartition("/")[2].startswith("serialized_") for name in names):
        raise MalformedError("it was saved by an older torch; load it and save it again with torch 2.8 or later")
    for name in names:
        if not _MEMBERS.fullmatch(name.partition("/")[2]):
            raise DangerousError(f"it holds '{name[:200]}', which is unknown")
    roots = {name.partition("/")[0] for name in names}
    root = min(roots)
    if len(roots) != 1 or f"{root}/models/model.json" not in names:
        raise MalformedError("it holds no program")
    return root


@contextmanager
def _quiet() -> Iterator[None]:
    """torch logs what it then raises."""
    logger = logging.getLogger("torch.export")
    level, logger.level = logger.level, logging.CRITICAL
    try:
        yield
    finally:
        logger.level = level
