"""Reads checkpoints without executing anything in them, and loads them strictly.

safetensors, or `torch.load(weights_only=True)`, told apart by content. A file may hold several sets of weights, in
nested mappings or under prefixes (`ema.`, `model.`, Lightning's `net.`), whose names may have wrappers in them
(`module.`, `_orig_mod.`): averaged weights are preferred, wrappers are taken off, and all that is said in `origin`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dsr_export.checkpoints.choice import choose
from dsr_export.checkpoints.codes import decoded
from dsr_export.checkpoints.contents import StateDict as StateDict
from dsr_export.checkpoints.contents import Wanted as Wanted
from dsr_export.checkpoints.contents import check_total, contents_of
from dsr_export.checkpoints.quantised_formats import PLAIN, said
from dsr_export.checkpoints.safe_reading import read_file
from dsr_export.checkpoints.strict_loading import load_into as load_into
from dsr_export.checkpoints.strict_loading import names_of as names_of
from dsr_export.declarations.weight_file import WeightFile
from dsr_export.errors import ExportError


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by the model's names, and `origin` (JSON values): the file, the entry, and what was taken off."""

    state: StateDict
    origin: dict[str, Any]


def read_checkpoint(file: WeightFile, wanted: Wanted | None = None) -> Checkpoint:
    """Tensors by name: float32 (integers as they are), finite, without wrappers.

    `wanted` says by which names the model's weights are known among others; without it, only how a file is built
    tells. Raises ExportError, with the way out, for a file that is missing, empty, corrupt, of an unknown kind, that
    would execute code, that holds no tensors or several sets of them, codes of an unknown scale, or NaN.
    """
    return read_shards([file], wanted)


def read_shards(files: Sequence[WeightFile], wanted: Wanted | None = None) -> Checkpoint:
    """`read_checkpoint` of one set of weights that lies in several files; a scale may lie in another than its weight.

    Raises ExportError where two files hold a tensor of the same name, too.
    """
    state: StateDict = {}
    origins: list[dict[str, Any]] = []
    types: set[str] = set()
    for file in files:
        content = contents_of(file.path, *read_file(file.path))
        found = choose(file.path, content, wanted, file.entry)
        check_total(file.path, found.state)
        twice = next((name for name in found.state if name in state), None)
        if twice is not None:
            raise ExportError(f"{file.path} holds '{twice}', as another shard does", hint="download the model again")
        types |= {said(tensor.dtype) for tensor in found.state.values()}
        state |= {name: tensor.float() if tensor.dtype in PLAIN else tensor for name, tensor in found.state.items()}
        origins.append(found.origin)
    path, more = files[0].path, f" and {len(files) - 1} more" if len(files) > 1 else ""
    origin = {"file": path.name + more, **origins[0], "types": sorted(types)}
    path = path.parent if more else path
    state, scaled = decoded(path, state, wanted.names if wanted else ())
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    _check_finite(path, state)
    return Checkpoint(state, {**origin, **({"scales": scaled} if scaled else {})})


def read_state_dict(path: Path, wanted: Wanted | None = None) -> StateDict:
    """`read_checkpoint` where nobody asks for more than the tensors."""
    return read_checkpoint(WeightFile(path), wanted).state


def require_float(path: Path, name: str, tensor: Tensor) -> Tensor:
    """`tensor`, which is used as it is. ExportError where it holds integers or the like."""
    if tensor.is_floating_point():
        return tensor
    kind = str(tensor.dtype).removeprefix("torch.")
    raise ExportError(f"{path}: '{name}' is {kind}, not floating point", hint="save it in float32")


def _check_finite(path: Path, state: StateDict) -> None:
    broken = [name for name, t in state.items() if not t.isfinite().all()]
    if broken:
        listed = ", ".join(broken[:3]) + (", ..." if len(broken) > 3 else "")
        raise ExportError(
            f"{path}: {len(broken)} tensors hold NaN or Inf: {listed}",
            hint="use a checkpoint from before the training diverged",
        )
