"""Whatever a bundle was turned into: a clean verdict within seconds, and nothing outside it is touched."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from tests.bundle.mutations import OUTSIDE, mutation
from tests.conftest import Cli

COUNT = int(os.environ.get("DSR_EXPORT_MUTATIONS", "120"))
SECONDS = 5.0
MEMORY = 1 << 30  # bytes, beyond what the process holds before
# A bundle may hold numbers that overflow: as figures these are judged, and a user sees at most a warning.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def _around(folder: Path, bundle: Path) -> dict[Path, tuple[int, int]]:
    """Everything in `folder` but the bundle, and the bundle's own entries: what may not change."""
    paths = [path for path in folder.rglob("*") if path != bundle]
    return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in paths}


def _memory_from_here() -> int:
    """Bytes held; the peak is counted from here, since the build before took more than a reader may."""
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")
    return _peak_memory()


def _peak_memory() -> int:
    """Largest resident bytes since; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM")), 0)


@pytest.mark.parametrize("seed", range(COUNT))
def test_a_mutated_bundle_gets_a_clean_verdict(
    seed: int, pipeline_bundle: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Path(shutil.copytree(pipeline_bundle, tmp_path / "b.dsr"))
    (tmp_path / OUTSIDE).write_bytes(b"not yours")
    monkeypatch.chdir(tmp_path)
    done = mutation(seed, bundle)
    before, memory = _around(tmp_path, bundle), _memory_from_here()
    for command in (("inspect",), ("verify", "--bisect") if seed % 2 else ("verify",)):
        began = time.monotonic()
        outcome = cli(*command, bundle)
        seconds = time.monotonic() - began
        said = f"{done.name}: {command} gave {outcome.code} in {seconds:.1f} s\n{outcome.err}{outcome.out}"
        assert outcome.code in ((1,) if done.refused else (0, 1, 3)), said
        assert "unexpected" not in outcome.err, said
        assert "Traceback" not in outcome.err + outcome.out, said
        assert outcome.code != 1 or ("error: " in outcome.err and "hint: " in outcome.err), said
        assert seconds < SECONDS, said
    assert _around(tmp_path, bundle) == before, done.name
    assert _peak_memory() - memory < MEMORY, done.name
    shutil.rmtree(bundle)
