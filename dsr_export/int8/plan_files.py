"""The calibrated plan on disk, one for each format: codes in a flat file that is never in memory as a whole, small
arrays beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import onnx

from graphs.quantize.formats import FLOATS, FORMATS, format_of
from graphs.quantize.quantizers import Activation, QuantizedGemm
from graphs.quantize.schemes import Scheme
from graphs.weights.packed import packed, packed_size
from graphs.weights.stored import StoredValues

Array = npt.NDArray[Any]
CODES, ARRAYS, INDEX = "codes.bin", "arrays.npz", "plan.json"
"""How the names of its files end; before that stands the format's."""
ALIGNMENT = 64

Plans = Mapping[str, Mapping[str, QuantizedGemm]]
"""GEMM -> format -> how it is quantised, the cheapest format first."""


@dataclass
class PlanWriter:
    """Takes one GEMM after another; `close` writes the rest."""

    folder: Path
    format: str
    _arrays: dict[str, Array] = field(default_factory=dict)
    _index: dict[str, Any] = field(default_factory=dict)
    _stream: IO[bytes] | None = None

    def add(self, name: str, gemm: QuantizedGemm) -> None:
        """Appends the codes of one GEMM and remembers its scales."""
        if self._stream is None:
            self._stream = _file(self.folder, self.format, CODES).open("wb")
        codes = gemm.codes.load() if isinstance(gemm.codes, StoredValues) else gemm.codes
        self._stream.write(b"\0" * (-self._stream.tell() % ALIGNMENT))
        activation = gemm.activation
        self._index[name] = {
            "offset": self._stream.tell(),
            "shape": list(codes.shape),
            "type": format_of(codes).type,
            "unit": gemm.unit,
            "activation": None
            if activation is None
            else {"step": activation.step, "rows": activation.rows, "floats": not activation.format.is_code},
        }
        self._stream.write(packed(codes))
        down, up = gemm.branch or (None, None)
        kept = {"steps": gemm.weight_steps, "shift": gemm.bias_shift, "down": down, "up": up}
        kept["product"] = gemm.product_steps
        kept["rows"] = None if activation is None else activation.row_factors
        self._arrays |= {f"{name}/{key}": value for key, value in kept.items() if value is not None}

    def close(self) -> None:
        """Writes the index and the small arrays."""
        if self._stream is not None:
            self._stream.close()
        with _file(self.folder, self.format, ARRAYS).open("wb") as stream:
            np.savez(stream, **self._arrays)  # type: ignore[arg-type]
        _file(self.folder, self.format, INDEX).write_text(json.dumps(self._index, sort_keys=True), encoding="utf-8")


def read_plans(folder: Path, scheme: Scheme) -> Plans:
    """Of every format of the scheme; codes stay in their file."""
    plans: dict[str, dict[str, QuantizedGemm]] = {}
    for form in dict.fromkeys(each.name for each in (*scheme.tokens, scheme.condition)):
        for name, gemm in _read_plan(folder, form).items():
            plans.setdefault(name, {})[form] = gemm
    return plans


def chosen_plan(plans: Plans, formats: Mapping[str, str]) -> dict[str, QuantizedGemm]:
    """GEMM -> how it is quantised in the format that it was given."""
    return {name: plans[name][form] for name, form in formats.items()}


def _read_plan(folder: Path, form: str) -> dict[str, QuantizedGemm]:
    index: Mapping[str, Any] = json.loads(_file(folder, form, INDEX).read_text(encoding="utf-8"))
    with np.load(_file(folder, form, ARRAYS), allow_pickle=False) as arrays:
        return {name: _gemm(_file(folder, form, CODES), name, entry, arrays) for name, entry in index.items()}


def _file(folder: Path, form: str, end: str) -> Path:
    return folder / f"{form}.{end}"


def _gemm(codes: Path, name: str, entry: Mapping[str, Any], arrays: Mapping[str, Array]) -> QuantizedGemm:
    activation = None
    if entry["activation"] is not None:
        rows = arrays.get(f"{name}/rows")
        told = dict(entry["activation"])
        form = FLOATS if told.pop("floats") else FORMATS[entry["type"]]
        activation = Activation(**told, row_factors=rows, format=form)
    return QuantizedGemm(
        codes=_stored(codes, name, entry),
        weight_steps=arrays[f"{name}/steps"],
        activation=activation,
        bias_shift=arrays.get(f"{name}/shift"),
        unit=entry["unit"],
        branch=(arrays[f"{name}/down"], arrays[f"{name}/up"]) if f"{name}/down" in arrays else None,
        product_steps=arrays.get(f"{name}/product"),
    )


def _stored(codes: Path, name: str, entry: Mapping[str, Any]) -> StoredValues:
    proto = onnx.TensorProto(name=name, dims=entry["shape"], data_type=entry["type"])
    proto.data_location = onnx.TensorProto.EXTERNAL
    length = packed_size(int(np.prod(entry["shape"])), entry["type"])
    for key, value in (("location", codes.name), ("offset", entry["offset"]), ("length", length)):
        proto.external_data.add(key=key, value=str(value))
    return StoredValues(proto, codes.parent)
