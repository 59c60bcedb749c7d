"""Random damage to an archive: it is loaded as it is or refused, and nothing else happens.

40 in the normal run. `DSR_FUZZ=2000 pytest tests/program_archive/test_fuzz.py` tries as many as are asked for.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from dsr_export.errors import ExportError
from dsr_export.subjects.program import load_program
from tests.program_archive.forged import honest, members_of, zipped

COUNT = int(os.environ.get("DSR_FUZZ", "40"))
JSON = ("models/model.json", "data/weights/model_weights_config.json", "data/constants/model_constants_config.json")


def _values(random_: random.Random, marker: str) -> Any:
    return random_.choice(
        [
            None,
            True,
            {},
            [],
            -1,
            0,
            2**31,
            2**40,
            10**400,
            -(2**63),
            1e308,
            float("nan"),
            "",
            "é" * 300,
            "a.b",
            "__class__",
            "torch.ops.aten.from_file.default",
            "torch.ops.aten.empty.memory_format",
            "torch.ops.aten.repeat.default",
            "_operator.pow",
            "9**9**9",
            f"open({marker!r}, 'w')",
            f"__import__('pathlib').Path({marker!r}).touch()",
            {"as_int": 2**40},
            {"as_expr": {"expr_str": f"open({marker!r}, 'w')"}},
            {"as_tensor": {"name": "x"}},
            {"as_string": marker},
            [[[[]]]],
        ]
    )


def _spots(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) within `value`."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    own = [(value, key) for key, _ in items]
    return own + [spot for container, key in own for spot in _spots(container[key])]


def _json_changed(random_: random.Random, content: bytes, marker: str) -> bytes:
    value = json.loads(content)
    for _ in range(random_.randint(1, 3)):
        spots = _spots(value)
        if not spots:  # nothing is left of it
            break
        container, key = random_.choice(spots)
        change = random_.randrange(4)
        if change == 0:
            del container[key]
        elif change == 1:
            other, its = random_.choice(spots)
            container[key] = json.loads(json.dumps(other[its])) if its in other or isinstance(other, list) else None
        else:
            container[key] = _values(random_, marker)
    return json.dumps(value).encode()


def _bytes_changed(random_: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(random_.randint(1, 4)):
        at = random_.randrange(len(changed) + 1)
        end = min(len(changed), at + random_.choice([1, 1, 1, 4, 100]))
        changed[at:end] = random_.choice(
            [random_.randbytes(end - at), b"", b"\xff" * (end - at), bytes(changed[:end]), b"PK\5\6" + bytes(18)]
        )
    return bytes(changed)


def _forgery(random_: random.Random, marker: str) -> bytes:
    members = members_of(honest())
    kind = random_.randrange(5)
    if kind == 0:
        return _bytes_changed(random_, honest())
    if kind == 1:
        name = random_.choice(sorted(members))
        members[name] = _bytes_changed(random_, members[name])
    elif kind == 2:
        inner = members_of(members["data/sample_inputs/model.pt"])
        name = random_.choice(sorted(inner))
        inner[name] = _bytes_changed(random_, inner[name])
        members["data/sample_inputs/model.pt"] = zipped(inner)
    else:
        name = JSON[0] if kind == 3 else random_.choice(JSON)
        members[name] = _json_changed(random_, members[name], marker)
    return zipped(members)


@pytest.mark.filterwarnings("ignore")  # torch's, of values that no program has
@pytest.mark.parametrize("block", range(0, COUNT, 20))
def test_random_damage(tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    marker, path = str(tmp_path / "marker"), tmp_path / "a.pt2"
    for seed in range(block, min(block + 20, COUNT)):
        print(f"seed {seed}")  # shown where it fails
        path.write_bytes(_forgery(random.Random(seed), marker))
        said = ""
        try:
            assert load_program(path, name="a", provenance={}).outputs
        except ExportError as error:
            said = error.message
        assert len(said) < 1000
        assert [each.name for each in tmp_path.iterdir()] == ["a.pt2"]
