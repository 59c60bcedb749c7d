"""Shares of an evaluation as tasks of a cluster, whose parts come home into the cache."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dsr_export.cluster.ray_driver import Cluster
from dsr_export.cluster.request import Resources
from dsr_export.cluster.worker import Done, Job
from dsr_export.declarations.share import Share
from dsr_export.errors import ExportError
from dsr_export.evaluation.measured import STAGE
from dsr_export.evaluation.shares import check_share, share_words
from dsr_export.storage.cache import StageCache

_PLACE = re.compile(rf"({STAGE}/[0-9a-f]{{64}})/([A-Za-z0-9._-]+)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class ClusterShares:
    """`places` are those of all parts in the `cache`; `name` stands for everything that their figures depend on."""

    cluster: Cluster
    cache: StageCache
    words: tuple[str, ...]
    places: Sequence[str]
    name: str

    def __call__(self, share: Share) -> None:
        """Measures one. ExportError where that fails, or the worker has other versions than are here."""
        record = f"evaluations/{self.name}-{share.index}-of-{share.of}"
        job = Job(words=share_words(self.words, share), folder=str(Path.cwd()), record=record, kept="stages")
        self.cluster.brought(job, Resources(), partial(self._home, share))

    def _home(self, share: Share, done: Done) -> None:
        check_share(done.ended, share, done.host)
        found = _entries(done.files)
        if missing := [place for place in share.taken(self.places) if place not in found]:
            raise ExportError(
                f"{done.host} measured with other versions or another GPU than are here ({len(missing)} parts)",
                hint="install the same packages everywhere, and give the same --runtime",
            )
        for place, files in found.items():
            if not self.cache.has(place):
                self.cluster.storage.get_folder(files, self.cache.root / place)


def _entries(files: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """By entry of the cache: its files. Anything else is left out."""
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for name, digest in files.items():
        if match := _PLACE.fullmatch(name):
            found[match[1]][match[2]] = digest
    return dict(found)
