"""Ways to damage a bundle, seeded. A damaged part may be sealed again, as an attacker would, to reach what reads it."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dsr_export.storage.canonical import canonical_bytes, parse_sealed, sealed_bytes
from graphs.digests import files_digest
from tests.bundle.mutated_files import damaged_json, damaged_model, damaged_npz, damaged_value

Damage = Callable[[random.Random, Path], None]
COMPONENT = "components/decoder"
OUTSIDE = "outside.bin"  # beside the bundle: what links and paths try to reach
TRICKS = (
    *(f"../{OUTSIDE}", f"a/../../{OUTSIDE}", "/etc/passwd", "./model.onnx", "model.onnx/", "a//b", "..", ""),
    *("C:\\windows", "a\\b", "con.onnx", "MODEL.ONNX", "manifest.json", "a\0b", "a" * 300, "\u202egpj.onnx"),
)


@dataclass(frozen=True)
class Mutation:
    """`refused`: no reader may accept what `damage` leaves; else it may also pass or fail as numbers."""

    name: str
    damage: Damage
    refused: bool


def mutation(seed: int, bundle: Path) -> Mutation:
    """Damages the bundle by the mutation of number `seed`: the kinds in turn, then others of the same."""
    rng = random.Random(seed)
    chosen = MUTATIONS[seed % len(MUTATIONS)]
    nested = (bundle / COMPONENT).is_dir() and chosen.name.startswith("sealed") and rng.random() < 0.3
    folder = bundle / COMPONENT if nested else bundle
    chosen.damage(rng, folder)
    if nested and (folder / "manifest.json").is_file():
        _seal_around(bundle)
    return replace(chosen, name=f"{chosen.name}{' nested' if nested else ''} seed {seed}")


def seal(folder: Path, edit: Callable[[dict[str, Any]], object] = lambda value: None) -> None:
    """Lists every file as it lies there now, and applies `edit`: what an attacker would do."""
    manifest = folder / "manifest.json"
    value = parse_sealed(manifest.read_bytes(), where=manifest)
    files = [path for path in folder.rglob("*") if path.is_file() and path != manifest]
    value["files"] = {
        path.relative_to(folder).as_posix(): {"sha256": files_digest([path]), "size": path.stat().st_size}
        for path in sorted(files)
    }
    edit(value)
    manifest.write_bytes(sealed_bytes(value))


def _seal_around(bundle: Path) -> None:
    """The outer manifest, made to mean the component as it is now."""
    inner = json.loads((bundle / COMPONENT / "manifest.json").read_bytes())

    def adopt(value: dict[str, Any]) -> None:
        entry = value["components"]["decoder"]
        entry |= {key: inner[key] for key in ("name", "build_key", "digest") if key in inner}

    seal(bundle, adopt)


def _any_file(rng: random.Random, folder: Path) -> Path:
    return rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))


# -- files as bytes ------------------------------------------------------------------------------------------------


def _flip(rng: random.Random, path: Path) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 8, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    data[0] ^= data == path.read_bytes()  # two flips of one bit would leave it as it was
    path.write_bytes(data)


def _truncate(rng: random.Random, path: Path) -> None:
    os.truncate(path, rng.choice((0, 1, rng.randrange(path.stat().st_size), path.stat().st_size - 1)))


def _overwrite(rng: random.Random, path: Path) -> None:
    data = bytearray(path.read_bytes())
    at, size = rng.randrange(len(data)), rng.choice((4, 64, 4096))
    data[at : at + size] = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size)))
    path.write_bytes(data + b"!")


def _append(rng: random.Random, path: Path) -> None:
    path.write_bytes(path.read_bytes() + rng.choice((b"\0", b"\n", rng.randbytes(1000))))


def _replace(rng: random.Random, path: Path) -> None:
    path.write_bytes(rng.choice((rng.randbytes(5000), b"[" * 100_000, b"\x0a\xff\xff\xff\xff\x07", b"PK\x05\x06")))


_BYTES = (_flip, _truncate, _overwrite, _append, _replace)


def _unsealed(change: Callable[[random.Random, Path], None]) -> Damage:
    return lambda rng, folder: change(rng, _any_file(rng, folder))


def _sealed(change: Callable[[random.Random, Path], None], *names: str) -> Damage:
    def damage(rng: random.Random, folder: Path) -> None:
        change(rng, rng.choice([folder / name for name in names if (folder / name).is_file()]))
        seal(folder)

    return damage


# -- the folder ----------------------------------------------------------------------------------------------------


def _remove(rng: random.Random, folder: Path) -> None:
    _any_file(rng, folder).unlink()


def _link(rng: random.Random, folder: Path) -> None:
    path = _any_file(rng, folder)
    outside = folder.parent / OUTSIDE
    shutil.copyfile(path, outside)  # the very bytes: only that it is a link may tell
    path.unlink()
    path.symlink_to(rng.choice((outside, Path(os.path.relpath(outside, path.parent)), Path("/dev/zero"), path)))


def _link_folder(rng: random.Random, folder: Path) -> None:
    inside = folder / "components"
    inside.rename(folder.parent / "moved")
    inside.symlink_to(folder.parent / "moved")


def _special(rng: random.Random, folder: Path) -> None:
    path = _any_file(rng, folder)
    path.unlink()
    rng.choice((os.mkfifo, os.mkdir))(path)


def _stray(rng: random.Random, folder: Path) -> None:
    path = folder / rng.choice(("extra.bin", "model.onnx.data", ".hidden", "engines", "components/x", "a b"))
    rng.choice((path.mkdir, path.touch, lambda: path.symlink_to(folder.parent)))()


# -- the manifest --------------------------------------------------------------------------------------------------


def _manifest_text(rng: random.Random, folder: Path) -> None:
    path = folder / "manifest.json"
    text = path.read_text()
    path.write_text(
        rng.choice(
            (
                text.replace("{", '{"name":"twice",', 1),
                text.replace(":1,", ":1e999,", 1),
                text.replace(":1,", ":NaN,", 1),
                text.replace(":1,", f":{'9' * 5000},", 1),
                json.dumps(json.loads(text), indent=1),
                "[" * 5000 + "]" * 5000,
                text.replace("digits", "\\ud800", 1) + " ",
                " " * (17 << 20) + text,
            )
        )
    )


def _manifest_value(rng: random.Random, folder: Path) -> None:
    seal(folder, lambda value: damaged_value(rng, value))


def _manifest_path(rng: random.Random, folder: Path) -> None:
    def edit(value: dict[str, Any]) -> None:
        name = rng.choice(sorted(value["files"]))
        entry = value["files"].pop(name) if rng.random() < 0.5 else value["files"][name]
        value["files"][rng.choice(TRICKS)] = entry

    seal(folder, edit)


def _manifest_engine(rng: random.Random, folder: Path) -> None:
    def edit(value: dict[str, Any]) -> None:
        value["targets"][0]["engine"] = rng.choice((*TRICKS, "model.onnx", 7, ["x"]))

    seal(folder, edit)


def _json_file(rng: random.Random, path: Path) -> None:
    value = json.loads(path.read_bytes())
    damaged_json(rng, value)
    path.write_bytes(canonical_bytes(value) if rng.random() < 0.8 else json.dumps([value]).encode())


MUTATIONS = (
    *(Mutation(f"unsealed{change.__name__}", _unsealed(change), True) for change in _BYTES),
    Mutation("remove", _remove, True),
    Mutation("link", _link, True),
    Mutation("link_folder", _link_folder, True),
    Mutation("special", _special, True),
    Mutation("stray", _stray, True),
    Mutation("manifest_text", _manifest_text, True),
    Mutation("sealed manifest_path", _manifest_path, True),
    Mutation("sealed manifest_engine", _manifest_engine, True),
    Mutation("sealed manifest_value", _manifest_value, False),
    Mutation("sealed manifest_value", _manifest_value, False),
    *(Mutation(f"sealed{change.__name__} model", _sealed(change, "model.onnx"), False) for change in _BYTES),
    *(Mutation(f"sealed{change.__name__} npz", _sealed(change, "golden.npz", "taps.npz"), False) for change in _BYTES),
    *(Mutation(f"sealed{change.__name__} report", _sealed(change, "report.json"), False) for change in _BYTES),
    Mutation("sealed report_value", _sealed(_json_file, "report.json"), False),
    *[Mutation("sealed golden_arrays", _sealed(damaged_npz, "golden.npz"), False)] * 3,
    *[Mutation("sealed taps_arrays", _sealed(damaged_npz, "taps.npz"), False)] * 2,
    *[Mutation("sealed model_fields", _sealed(damaged_model, "model.onnx"), False)] * 4,
)
