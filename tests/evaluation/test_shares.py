"""Shares of an evaluation in other processes: the same figures, and nothing measured twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dsr_export.cluster.commands import Ended
from dsr_export.cluster.request import ExecutorRequest
from dsr_export.cluster.storage import Storage
from dsr_export.cluster.worker import Done
from dsr_export.declarations.share import Share
from dsr_export.errors import ExportError
from dsr_export.evaluation import shares
from dsr_export.evaluation.measured import STAGE, part_key
from dsr_export.evaluation.parts import parts_of
from dsr_export.evaluation.shares import Shares, share_words
from dsr_export.evaluation.shares_on_cluster import ClusterShares
from dsr_export.progress import Silent
from dsr_export.storage.cache import StageCache
from tests.conftest import Cli

KEY = {"bundle": "a"}
PARTS = parts_of(64)


@pytest.mark.parametrize(
    "spreading",
    [["--jobs", "2"], ["--jobs=2"], ["--executor", "ray", "--address", "a:1", "--storage=s3://b"], []],
)
def test_a_share_is_the_command_in_one_process(spreading: list[str]) -> None:
    words = ("evaluate", "a.dsr", *spreading, "--count", "64")
    wanted = ("evaluate", "--json", "--shard", "2/3", "a.dsr", "--count", "64")
    assert share_words(words, Share(2, 3)) == wanted


def _measured(cache: StageCache, share: Share) -> list[str]:
    """Puts the parts of a share into the cache."""
    made = []
    for part in share.taken(PARTS):
        stage = cache.run(STAGE, part_key(KEY, part), lambda folder: (folder / "part.npz").write_bytes(b"x"))  # type: ignore[arg-type, return-value]
        made.append(stage.path.relative_to(cache.root).as_posix())
    return made


def test_only_shares_that_lack_parts_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, called = StageCache(tmp_path), list[str]()

    def run(words: Sequence[str], log: Path) -> Ended:
        share = words[words.index("--shard") + 1]
        called.append(share)
        index, _, of = share.partition("/")
        return Ended(0, json.dumps({"stages": _measured(cache, Share(int(index), int(of)))}), "")

    monkeypatch.setattr(shares, "run_command", run)
    _measured(cache, Share(2, 3))
    asked = Shares(words=("evaluate",), jobs=3, executor=ExecutorRequest())
    asked.measure(KEY, PARTS, cache, Silent())
    assert sorted(called) == ["1/3", "3/3"]
    asked.measure(KEY, PARTS, cache, Silent())
    assert len(called) == 2


def test_a_share_that_fails_is_told_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "run_command", lambda words, log: Ended(1, "", "error: no such network\n"))
    asked = Shares(words=("evaluate",), jobs=2, executor=ExecutorRequest())
    with pytest.raises(ExportError, match=r"share-1-of-2 failed on this machine: no such network"):
        asked.measure(KEY, PARTS, StageCache(tmp_path), Silent())


class _Cluster:
    """Measures a share in a cache of its own, with `key`."""

    def __init__(self, folder: Path, key: dict[str, Any]) -> None:
        self.storage, self.cache, self.key = Storage(str(folder / "s")), StageCache(folder / "worker"), key

    def brought(self, job: Any, needs: Any, take: Any) -> Done:
        take(done := self.run(job))
        return done

    def run(self, job: Any) -> Done:
        files = {}
        share = job.words[job.words.index("--shard") + 1]
        for part in Share.parse(share, option="--shard").taken(PARTS):
            stage = self.cache.run(
                STAGE, part_key(self.key, part), lambda folder: (folder / "part.npz").write_bytes(b"x")
            )  # type: ignore[arg-type, return-value]
            place = stage.path.relative_to(self.cache.root).as_posix()
            files |= {f"{place}/{name}": each for name, each in self.storage.put_folder(stage.path).items()}
        return Done(exit_code=0, answer="{}", log="", host="vm", files={**files, "../out": "0" * 64})


def _on_cluster(folder: Path, key: dict[str, Any]) -> ClusterShares:
    cache = StageCache(folder / "driver")
    places = [cache.place(STAGE, part_key(KEY, part)) for part in PARTS]
    return ClusterShares(cluster=_Cluster(folder, key), cache=cache, words=("evaluate",), places=places, name="n")  # type: ignore[arg-type]


def test_what_a_worker_measured_comes_into_the_cache(tmp_path: Path) -> None:
    made = _on_cluster(tmp_path, KEY)
    for index in (1, 2):
        made(Share(index, 2))
    assert all(made.cache.has(place) for place in made.places)
    assert not (tmp_path / "out").exists()


def test_a_worker_with_other_versions_is_refused(tmp_path: Path) -> None:
    made = _on_cluster(tmp_path, {"bundle": "b"})
    with pytest.raises(ExportError, match="vm measured with other versions or another GPU"):
        made(Share(1, 2))
    assert not any(made.cache.has(place) for place in made.places)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--jobs", "2", "--shard", "1/2"), "--jobs does not go with --shard"),
        (("--executor", "ray", "--methods"), "--executor does not go with --methods"),
        (("--address", "a:1"), "--address goes with --executor ray"),
        (("--jobs", "0"), "--jobs"),
    ],
)
def test_options_that_do_not_go_together_are_refused(cli: Cli, options: tuple[str, ...], message: str) -> None:
    done = cli("evaluate", "digits", *options)
    assert done.code == 2 and message in done.err, done.err


@pytest.mark.slow
def test_one_process_two_and_a_cluster_give_the_same_bytes(
    digits_bundle: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="needs the fleet extra")
    found = []
    for number, words in enumerate([(), ("--jobs", "2"), ("--executor", "ray")]):
        monkeypatch.setenv("DSR_EXPORT_CACHE", str(tmp_path / f"cache-{number}"))
        few = ("--count", "128", "--steps", "2", "--metrics", "fid,class-accuracy")
        done = cli("evaluate", digits_bundle, *few, *words, "-o", tmp_path / "made.json")
        assert done.code == 0, done.err
        found.append((tmp_path / "made.json").read_bytes())
    assert found[0] == found[1] == found[2]
