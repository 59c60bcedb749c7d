"""The readers of what a user brings, each with files that it reads, and the ways in which these are damaged."""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from PIL import Image

from calibration.table import Table, merged, read_table
from dsr_export.backends.named_arrays import load_arrays
from dsr_export.bundle.inspection import inspect_plan
from dsr_export.checkpoints import Wanted, read_checkpoint
from dsr_export.declarations.dsr_file import read_dsr_file
from dsr_export.declarations.neuron_table import read_neurons
from dsr_export.declarations.released_config import read_released
from dsr_export.declarations.weight_file import WeightFile
from dsr_export.families.diffusers.files import open_folder
from dsr_export.images.picture_file import read_picture
from dsr_export.storage.canonical import parse_json, parse_sealed, sealed_bytes
from graphs.artifacts import TensorSpec
from tests.engine_schedule.tiny_plan import PLAN
from tests.fuzz.damage import header_of, json_of, members_of, rewritten, rotten

Damage = Callable[[bytes, random.Random], bytes]
MODEL = "0" * 64
INPUTS = (
    TensorSpec(name="x", dtype="float32", shape=("batch", 3, 4, 4)),
    TensorSpec(name="y", dtype="int64", shape=("batch",)),
)
DSR = b"""[encoder]
kind = "test-time"
registers = 2
scale = [1.0, 0.5]
neurons = "neurons.json"
[denoiser]
kind = "diffusion"
registers = 4
start = 2
[[denoiser.replace]]
layers = [4, 8]
rule = "median"
threshold = 4.0
rounds = 2
"""
RELEASED = b"""stage_2:
  target: stage2.models.lightningDiT.LightningDiT
  params: {input_size: 16, depth: &depth 4, hidden_size: 64, num_heads: *depth}
sampler: {mode: ODE, params: {sampling_method: euler, num_steps: 50}}
misc: {latent_size: [768, 16, 16], num_classes: 1000, time_dist_shift_dim: 10000}
"""
CONFIG = {"_class_name": "DiTTransformer2DModel", "num_layers": 2, "norm_type": "ada_norm_zero", "sizes": [1, 2]}


@dataclass(frozen=True)
class Reader:
    """`suffix` of its files, valid ones, the kinds of damage, and how a path is read."""

    suffix: str
    files: Callable[[], list[bytes]]
    damages: tuple[Damage, ...]
    read: Callable[[Path], Any]


def _state() -> dict[str, Any]:
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2, dtype=torch.bfloat16)}


def _saved(content: Any, *, zipped: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def _torch_files() -> list[bytes]:
    both = {"model": _state(), "ema": _state(), "args": {"lr": 0.1}, "shadow_params": [torch.ones(2, 3)]}
    return [_saved(_state()), _saved(both), _saved(both, zipped=False)]


def _zipped_torch_files() -> list[bytes]:
    return _torch_files()[:2]


def _safetensors() -> list[bytes]:
    arrays = {"a.weight": np.ones((2, 3), np.float32), "a.bias": np.ones(2, np.float16)}
    return [safetensors.numpy.save(arrays, metadata={"b": "a.bias"})]


def _arrays() -> list[bytes]:
    stream, packed = io.BytesIO(), io.BytesIO()
    values = {"x": np.zeros((2, 3, 4, 4), np.float32), "y": np.arange(2)}
    np.savez(stream, allow_pickle=False, **values)  # type: ignore[arg-type]
    np.savez_compressed(packed, allow_pickle=False, **values)  # type: ignore[arg-type]
    return [stream.getvalue(), packed.getvalue()]


def _pictures() -> list[bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    picture, deep = Image.fromarray(noise), Image.fromarray((noise[..., 0].astype(np.uint16)) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    made = []
    for each, kind in ((picture, "PNG"), (picture.convert("P"), "PNG"), (deep, "PNG"), (picture, "JPEG")):
        stream = io.BytesIO()
        each.save(stream, kind, **({"exif": exif} if kind == "JPEG" else {}))
        made.append(stream.getvalue())
    return made


def _table() -> list[bytes]:
    buckets = [{"count": 4, "amax": 1.0, "rms": 0.5}]
    roles = {"all": {"count": 4, "amax": 1.0, "rms": 0.5, "buckets": buckets}}
    entry = {"step": 0.1, "rows": "static", "row_factors": [1.0, 2.0], "channel_factors": [1.0], "width": 1}
    gemms = {"g": {"activation": "h", "condition": False, "flops_share": 1.0}}
    made = Table(MODEL, "minmax", {}, {"h": {**entry, "snr_db": 30.0, "roles": roles}}, gemms)
    return [made.to_bytes()]


def _sealed_table(data: bytes, rng: random.Random) -> bytes:
    """As someone who can count a digest would change it."""
    content = rewritten({key: value for key, value in json.loads(data).items() if key != "digest"}, rng)
    if not isinstance(content, dict):
        return data
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, indent=1).encode()).hexdigest()
    return json.dumps({**content, "digest": digest}).encode()


def _read_dsr(path: Path) -> Any:
    neurons = path.parent / "neurons.json"
    if not neurons.exists():
        neurons.write_text('{"3": [1, 2]}')
    return read_dsr_file(path)


def _read_folder(path: Path) -> Any:
    for name in ("config.json", "diffusion_pytorch_model.safetensors.index.json"):
        (path.parent / name).write_bytes(path.read_bytes())
    return open_folder(path.parent, own_weights=True)


def _read_checkpoint(path: Path) -> Any:
    return read_checkpoint(WeightFile(path), Wanted(("a.weight", "a.bias"), complete=True))


def _read_table(path: Path) -> Any:
    table = read_table(path, model_sha256=MODEL)
    return table.choices(), merged([table, table])


READERS = {
    "dsr.toml": Reader(".toml", lambda: [DSR], (rotten,), _read_dsr),
    "released yaml": Reader(".yaml", lambda: [RELEASED], (rotten,), read_released),
    "neurons": Reader(".json", lambda: [b'{"3": [2625, 1756], "4": [16]}'], (rotten, json_of), read_neurons),
    "folder": Reader(".cfg", lambda: [json.dumps(CONFIG).encode()], (rotten, json_of), _read_folder),
    "calibration table": Reader(".json", _table, (rotten, json_of, _sealed_table), _read_table),
    "sealed": Reader(
        ".json",
        lambda: [sealed_bytes({"a": [1, 2.5, {"b": None}], "c": "x"})],
        (rotten, json_of),
        lambda path: (parse_json(path.read_bytes(), where=path), parse_sealed(path.read_bytes(), where=path)),
    ),
    "npz": Reader(".npz", _arrays, (rotten, members_of), lambda path: load_arrays(path, INPUTS)),
    "npz of anything": Reader(".npz", _arrays, (rotten, members_of), load_arrays),
    "plan": Reader(".plan", lambda: [PLAN], (rotten,), inspect_plan),
    "pictures": Reader(".png", _pictures, (rotten,), read_picture),
    "safetensors": Reader(".safetensors", _safetensors, (rotten, header_of), _read_checkpoint),
    "torch": Reader(".pt", _torch_files, (rotten,), _read_checkpoint),
    "torch members": Reader(".pt", _zipped_torch_files, (members_of,), _read_checkpoint),
}
