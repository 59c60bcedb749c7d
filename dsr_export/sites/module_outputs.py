"""What the modules of the reference returned, in samples; from the stage that has the model to a later one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphs.observe.tap_samples import Sample


@dataclass(frozen=True)
class ModuleOutput:
    """What the PyTorch module at `path` returned in one of its calls; `shape` without the batch."""

    path: str
    shape: tuple[int, ...]
    sample: Sample


def save_module_outputs(outputs: Sequence[ModuleOutput], path: Path) -> None:
    """One npz: an index in JSON, and two arrays per output."""
    index = [{"path": each.path, "shape": each.shape} for each in outputs]
    arrays = {f"values{i}": each.sample.values for i, each in enumerate(outputs)}
    arrays |= {f"norms{i}": each.sample.norms for i, each in enumerate(outputs)}
    with path.open("wb") as stream:
        np.savez(stream, index=np.frombuffer(json.dumps(index).encode(), np.uint8), **arrays)  # type: ignore[arg-type]


def load_module_outputs(path: Path) -> list[ModuleOutput]:
    """None where the subject is no PyTorch module: then there is no file."""
    if not path.exists():
        return []
    with np.load(path, allow_pickle=False) as arrays:
        index = json.loads(arrays["index"].tobytes())
        samples = [Sample(arrays[f"values{i}"], arrays[f"norms{i}"]) for i in range(len(index))]
    return [
        ModuleOutput(item["path"], tuple(item["shape"]), sample) for item, sample in zip(index, samples, strict=True)
    ]
