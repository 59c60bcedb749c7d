"""Element types in a folder of safetensors that another library loads, which would take codes for weights.

Read off the headers; needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dsr_export.errors import ExportError
from graphs.foreign.small_files import parse_small_json

FLOATS = frozenset({"F16", "BF16", "F32", "F64"})
LARGEST_HEADER = 16 << 20  # bytes
COUNTERS = ("position_ids", "num_batches_tracked")
"""Last parts of the names of integers that vision models have."""
_DEQUANTISE = "dequantise the model with the library that quantised it, and save it in float32, float16 or bfloat16"


def check_stored_types(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises ExportError, naming a tensor, where weights are integers or other codes, or where the config says so."""
    quantised = config.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method") if isinstance(quantised, Mapping) else None
        raise ExportError(f"{folder} is quantised ({method or 'see quantization_config'})", hint=_DEQUANTISE)
    for file in sorted(folder.glob("model*.safetensors")):
        for name, kind in _types(file):
            if kind not in FLOATS and name.rpartition(".")[2] not in COUNTERS:
                raise ExportError(f"{file}: '{name}' holds {kind}, not floating-point weights", hint=_DEQUANTISE)


def _types(file: Path) -> Iterator[tuple[str, str]]:
    """Name and element type of each tensor; none of a file that is damaged, of which its reader will tell."""
    try:
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            if LARGEST_HEADER < size <= file.stat().st_size:
                raise ExportError(f"{file} has a header of {size} bytes", hint="copy or download it again")
            header = parse_small_json(stream.read(size)) if size <= LARGEST_HEADER else {}
    except (OSError, ValueError):
        return
    for name, entry in header.items() if isinstance(header, dict) else ():
        if isinstance(entry, dict) and isinstance(entry.get("dtype"), str):
            yield name, entry["dtype"]
