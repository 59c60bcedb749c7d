"""Measures the parts of an evaluation in other processes, of this machine or of a cluster, before its figures are made.

A share is the same command with `--shard`. Parts depend on what is drawn alone: whoever measures them, the figures have
the same bytes. What is in the cache already is not measured again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from dsr_export.cluster.commands import Ended, last_error, run_command
from dsr_export.cluster.request import ExecutorRequest
from dsr_export.cluster.storage import Storage
from dsr_export.declarations.share import Share
from dsr_export.errors import ExportError
from dsr_export.evaluation.measured import STAGE, part_key
from dsr_export.evaluation.parts import Part
from dsr_export.progress import Reporter
from dsr_export.storage.cache import StageCache
from dsr_export.storage.canonical import canonical_digest
from dsr_export.storage.leftovers import scratch_folder

_SPREADING = ("--executor", "--address", "--storage", "--jobs")
Measure = Callable[[Share], None]


@dataclass(frozen=True, kw_only=True)
class Shares:
    """`words` are the whole command behind `dsr-export`; `jobs` are its processes (None: as a cluster has CPUs)."""

    words: tuple[str, ...]
    jobs: int | None
    executor: ExecutorRequest

    def measure(self, key: Mapping[str, Any], parts: Sequence[Part], cache: StageCache, shown: Reporter) -> None:
        """Afterwards the cache has the parts of an evaluation with this `key`.

        Raises ExportError where a share fails, or is measured with other versions than are here; and as `connected`.
        """
        places = [cache.place(STAGE, part_key(key, part)) for part in parts]
        missing = {place for place in places if not cache.has(place)}
        if not missing:
            return
        with ExitStack() as opened:
            measure, count = self._measure(key, places, cache, opened)
            shares = [Share(index + 1, count) for index in range(count)]
            _all([each for each in shares if missing.intersection(each.taken(places))], measure, shown)

    def _measure(
        self, key: Mapping[str, Any], places: Sequence[str], cache: StageCache, opened: ExitStack
    ) -> tuple[Measure, int]:
        """What measures a share, and how many there are."""
        if self.executor.kind == "local":
            scratch = opened.enter_context(scratch_folder("shares"))
            return partial(_measure_here, self.words, scratch), min(self.jobs or 1, len(places))
        from dsr_export.cluster.ray_driver import connected
        from dsr_export.evaluation.shares_on_cluster import ClusterShares

        storage = Storage(self.executor.storage or str(cache.root / "shared"))
        cluster = opened.enter_context(connected(self.executor.address, storage))
        name = canonical_digest({"key": key, "places": list(places)})
        made = ClusterShares(cluster=cluster, cache=cache, words=self.words, places=places, name=name)
        return made, min(self.jobs or cluster.cpus(), len(places))


def share_words(words: tuple[str, ...], share: Share) -> tuple[str, ...]:
    """The command that measures a share, in one process."""
    kept: list[str] = []
    for before, word in pairwise(words):
        if word.partition("=")[0] not in _SPREADING and before not in _SPREADING:
            kept.append(word)
    return (words[0], "--json", "--shard", f"{share.index}/{share.of}", *kept)  # in front of a "--"


def check_share(ended: Ended, share: Share, where: str) -> None:
    """Raises ExportError where its command failed."""
    if ended.exit_code:
        raise ExportError(
            f"{share} failed on {where}: {last_error(ended)}", hint="the same command with --shard shows its log"
        )


def _measure_here(words: tuple[str, ...], scratch: Path, share: Share) -> None:
    check_share(run_command(share_words(words, share), scratch / f"{share}.log"), share, "this machine")


def _all(shares: Sequence[Share], measure: Measure, shown: Reporter) -> None:
    with shown.stage("shares") as bar, ThreadPoolExecutor(max(1, len(shares))) as workers:
        waiting = [workers.submit(measure, each) for each in shares]
        try:
            for done, each in enumerate(waiting):
                each.result()
                bar(done + 1, len(waiting))
        except BaseException:
            for each in waiting:
                each.cancel()
            raise
