"""`taps.npz`: what the FP32 reference makes at every site, in samples; read back as strictly as the manifest."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from dsr_export.bundle.schema import Fields
from dsr_export.errors import ExportError
from dsr_export.storage.canonical import MAX_BYTES, parse_json
from graphs.observe.sites import Site
from graphs.observe.tap_samples import Layout, Sample
from graphs.observe.taps import Tap

Array = npt.NDArray[Any]
TORCH, GRAPH = "torch-fp32", "graph-fp32"
"""Where a reference comes from: the PyTorch module itself, or the FP32 graph where no module returns that value."""
_KEYS = ("tensor", "module", "group", "shape", "outer", "source", "kept")
_LARGEST = 1 << 24  # of one axis
_HINT = "build the bundle again"


@dataclass(frozen=True)
class ReferenceTap:
    """One site with the reference's values. `source` is `TORCH` or `GRAPH`."""

    site: Site
    sample: Sample
    source: str

    @property
    def tap(self) -> Tap:
        """What a candidate is to be asked for."""
        return Tap(self.site, self.sample.values.shape[-1])


@dataclass(frozen=True)
class Taps:
    """Inputs by name, [images, ...], and the sites in order: group by group, each ending with its outer site."""

    inputs: Mapping[str, Array]
    taps: Sequence[ReferenceTap]

    def save(self, path: Path) -> None:
        """Writes one compressed npz, the same bytes for the same values."""
        kept = [tap.sample.values.shape[-1] for tap in self.taps]
        index = [
            asdict(tap.site) | {"source": tap.source, "kept": count} for tap, count in zip(self.taps, kept, strict=True)
        ]
        arrays: dict[str, Array] = {"sites": np.frombuffer(json.dumps(index).encode(), np.uint8)}
        arrays |= {f"in/{name}": value for name, value in self.inputs.items()}
        arrays["values"] = _flat([tap.sample.values for tap in self.taps])
        arrays["norms"] = _flat([tap.sample.norms for tap in self.taps])
        with path.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], *, where: Path) -> Taps:
        """Raises `ExportError` where the arrays are not those of `save`."""
        absent = [name for name in ("sites", "values", "norms") if name not in arrays]
        if absent:
            raise ExportError(f"{where} lacks the array '{absent[0]}'", hint=_HINT)
        index = parse_json(arrays["sites"].tobytes(), where=where, max_bytes=MAX_BYTES)
        if not isinstance(index, list):
            raise ExportError(f"{where}: sites is no list", hint=_HINT)
        inputs = {key[3:]: value for key, value in arrays.items() if key.startswith("in/")}
        if not inputs or len({len(value) if value.ndim else 0 for value in inputs.values()}) != 1:
            raise ExportError(f"{where} has inputs of different numbers of images, or none", hint=_HINT)
        rows = len(next(iter(inputs.values())))
        values, norms = _Reels(where, "values", arrays["values"]), _Reels(where, "norms", arrays["norms"])
        taps = [
            _read(Fields.of(item, at=f"{where}: sites[{i}]", keys=_KEYS), rows, values, norms)
            for i, item in enumerate(index)
        ]
        values.check_end()
        norms.check_end()
        return cls(inputs, taps)


@dataclass
class _Reels:
    """Arrays that lie one behind the other in a flat one."""

    where: Path
    name: str
    flat: Array
    at: int = 0

    def __post_init__(self) -> None:
        if self.flat.dtype != np.float32 or self.flat.ndim != 1:
            self._refuse()

    def next(self, shape: tuple[int, ...]) -> Array:
        size = math.prod(shape)
        if self.at + size > len(self.flat):
            self._refuse()
        self.at += size
        return self.flat[self.at - size : self.at].reshape(shape)

    def check_end(self) -> None:
        if self.at != len(self.flat):
            self._refuse()

    def _refuse(self) -> NoReturn:
        raise ExportError(f"{self.where}: '{self.name}' does not fit the sites", hint=_HINT)


def _flat(arrays: Sequence[Array]) -> Array:
    return np.concatenate([np.zeros(0, np.float32), *(array.ravel() for array in arrays)])


def _read(fields: Fields, rows: int, values: _Reels, norms: _Reels) -> ReferenceTap:
    shape = fields.items("shape", most=3)
    if not shape or not all(type(size) is int and 0 < size <= _LARGEST for size in shape):
        fields.fail("shape", "1 to 3 sizes")
    if type(fields.values["outer"]) is not bool:
        fields.fail("outer", "true or false")
    names = {key: fields.text(key) for key in ("tensor", "module", "group")}
    site = Site(shape=tuple(shape), outer=fields.values["outer"], **names)
    layout = Layout.of((rows, *shape))
    kept = fields.integer("kept", 1, layout.channels)
    sample = Sample(values.next((rows, len(layout.token_rows()), kept)), norms.next((rows, layout.tokens)))
    return ReferenceTap(site, sample, fields.choice("source", (TORCH, GRAPH)))
