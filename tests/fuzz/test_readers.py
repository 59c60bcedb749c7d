"""Every reader, on files that are damaged at random: what it does not read is an `ExportError`, and never a bug.

Some inputs of each in the normal run; `DSR_EXPORT_FUZZ=2000` takes as many. Seeds are numbers from 0.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from dsr_export.errors import ExportError
from tests.fuzz.readers import READERS

COUNT = int(os.environ.get("DSR_EXPORT_FUZZ", "40"))
LONGEST_ERROR = 3000


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    reader = READERS[name]
    files, refused = reader.files(), list[int]()
    for seed in range(COUNT):
        rng = random.Random(f"{name} {seed}")
        path = tmp_path / f"a{reader.suffix}"
        path.write_bytes(rng.choice(reader.damages)(rng.choice(files), rng))
        try:
            reader.read(path)
        except ExportError as error:
            refused.append(len(error.message))
        except Exception as error:
            pytest.fail(f"seed {seed}: {type(error).__name__}: {error}")
    assert refused  # the damage reaches the reader
    assert max(refused) < LONGEST_ERROR


@pytest.mark.parametrize("name", [name for name in READERS if name not in ("folder",)])
def test_what_is_not_damaged_is_read(name: str, tmp_path: Path) -> None:
    reader = READERS[name]
    for data in reader.files():
        path = tmp_path / f"a{reader.suffix}"
        path.write_bytes(data)
        assert reader.read(path) is not None
