"""The calibrated plan on disk: codes in one flat file that is never in memory as a whole, small arrays beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import onnx

from graphs.quantize.quantizers import Activation, QuantizedGemm
from graphs.weights.stored import StoredValues

Array = npt.NDArray[Any]
CODES, ARRAYS, INDEX = "codes.bin", "arrays.npz", "plan.json"
ALIGNMENT = 64


@dataclass
class PlanWriter:
    """Takes one GEMM after another; `close` writes the rest."""

    folder: Path
    _arrays: dict[str, Array] = field(default_factory=dict)
    _index: dict[str, Any] = field(default_factory=dict)
    _stream: IO[bytes] | None = None

    def add(self, name: str, gemm: QuantizedGemm) -> None:
        """Appends the codes of one GEMM and remembers its scales."""
        if self._stream is None:
            self._stream = (self.folder / CODES).open("wb")
        codes = np.ascontiguousarray(gemm.codes)
        self._stream.write(b"\0" * (-self._stream.tell() % ALIGNMENT))
        activation = gemm.activation
        self._index[name] = {
            "offset": self._stream.tell(),
            "shape": list(codes.shape),
            "activation": None if activation is None else {"step": activation.step, "rows": activation.rows},
        }
        self._stream.write(codes.data)
        kept = {"steps": gemm.weight_steps, "shift": gemm.bias_shift}
        kept["rows"] = None if activation is None else activation.row_factors
        self._arrays |= {f"{name}/{key}": value for key, value in kept.items() if value is not None}

    def close(self) -> None:
        """Writes the index and the small arrays."""
        if self._stream is not None:
            self._stream.close()
        with (self.folder / ARRAYS).open("wb") as stream:
            np.savez(stream, **self._arrays)  # type: ignore[arg-type]
        (self.folder / INDEX).write_text(json.dumps(self._index, sort_keys=True), encoding="utf-8")


def read_plan(folder: Path) -> dict[str, QuantizedGemm]:
    """GEMM name -> how it is quantised; codes stay in their file."""
    index: Mapping[str, Any] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
        return {name: _gemm(folder, name, entry, arrays) for name, entry in index.items()}


def _gemm(folder: Path, name: str, entry: Mapping[str, Any], arrays: Mapping[str, Array]) -> QuantizedGemm:
    activation = None
    if entry["activation"] is not None:
        rows = arrays.get(f"{name}/rows")
        activation = Activation(**entry["activation"], row_factors=rows)
    return QuantizedGemm(
        codes=_stored(folder, name, entry),
        weight_steps=arrays[f"{name}/steps"],
        activation=activation,
        bias_shift=arrays.get(f"{name}/shift"),
    )


def _stored(folder: Path, name: str, entry: Mapping[str, Any]) -> StoredValues:
    proto = onnx.TensorProto(name=name, dims=entry["shape"], data_type=onnx.TensorProto.INT8)
    proto.data_location = onnx.TensorProto.EXTERNAL
    length = int(np.prod(entry["shape"]))
    for key, value in (("location", CODES), ("offset", entry["offset"]), ("length", length)):
        proto.external_data.add(key=key, value=str(value))
    return StoredValues(proto, folder)
