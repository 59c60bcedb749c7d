"""One build: its options resolved, its key, and the log of its stages."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsr_export import heap
from dsr_export.bundle.destination import LONGEST_NAME
from dsr_export.bundle.reader import Bundle
from dsr_export.cache import CachedStage, StageCache, source_digest, tool_versions
from dsr_export.chain import open_components
from dsr_export.config import ExportConfig
from dsr_export.disk import DamagedFile
from dsr_export.errors import ExportError
from dsr_export.installation import check_buildable
from dsr_export.progress import Bar, Reporter
from dsr_export.runners import runs_here
from dsr_export.sources import Source, find_source
from graphs.targets import Target, default_target, target

if TYPE_CHECKING:
    from dsr_export.subject import ExportSubject


@dataclass
class Build:
    """Options of one build and what is derived from them. `log` and `used` grow by one entry per stage."""

    config: ExportConfig
    reporter: Reporter
    log: list[dict[str, Any]] = field(default_factory=list)
    used: list[CachedStage] = field(default_factory=list)
    _subject: ExportSubject | None = None

    @cached_property
    def name(self) -> str:
        """The bundle's name: the model's, fit for a file name; of one without a single ASCII letter, `model`."""
        return re.sub(r"[^A-Za-z0-9_-]+", "-", self.source.name).strip("-")[: LONGEST_NAME - len(".dsr")] or "model"

    @cached_property
    def out(self) -> Path:
        return self.config.out if self.config.out is not None else Path(f"{self.name}.dsr")

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        """The targets asked for, or the default one, which is said aloud."""
        if self.config.targets:
            return tuple(target(name) for name in dict.fromkeys(self.config.targets))
        chosen, reason = default_target()
        self.reporter.note(f"target: {chosen.name} ({reason})")
        return (chosen,)

    @property
    def engine_targets(self) -> tuple[Target, ...]:
        return tuple(each for each in self.targets if each.backend != "onnxruntime")

    def check_targets(self) -> None:
        """Fails at once, not after the trace, where a target can't be built here."""
        for each in self.engine_targets:
            check_buildable(each)

    @cached_property
    def runnable_targets(self) -> tuple[Target, ...]:
        """Those whose engines the GPU at hand runs; none without a GPU."""
        return tuple(each for each in self.engine_targets if runs_here(each))

    @cached_property
    def source(self) -> Source:
        """The model asked for; not loaded yet."""
        return find_source(self.config)

    @cached_property
    def components(self) -> dict[str, Bundle]:
        """The other models of the pipeline, by role; opened and verified."""
        return open_components(self.config.components)

    @cached_property
    def subject_key(self) -> dict[str, Any]:
        """Identifies model and weights, without loading them. The card has the name, which not all sources count in."""
        return {"called": self.source.name, **self.source.key()}

    @property
    def is_int8(self) -> bool:
        return self.config.precision == "int8"

    @cached_property
    def key(self) -> str:
        """Digest of everything the bundle depends on; equal keys mean that there is nothing to do."""
        files = dict.fromkeys(("checkpoint", "config_file", "dsr", "model_dir", "out"))  # the subject's key has them
        inside = {role: component.manifest.digest for role, component in self.components.items()}
        options = dataclasses.asdict(self.config) | files | {"force": False, "components": inside}
        options["int8"] = {**self.config.int8.key(), "budget": self.config.int8.budget_db} if self.is_int8 else None
        targets = [each.name for each in self.targets]
        checked = [each.name for each in self.runnable_targets]
        return _digest({"options": options, "targets": [targets, checked], "subject": self.subject_key, **self._tools})

    @cached_property
    def _tools(self) -> dict[str, Any]:
        return {"tools": tool_versions(), "source": source_digest()}

    def load(self) -> ExportSubject:
        """The subject, loaded once; a build served from the cache never loads it."""
        if self._subject is None:
            self._subject = self.source.load()
        return self._subject

    def unload(self) -> None:
        """Lets the model go: the stages behind the reference need its memory, not its weights."""
        if self._subject is not None:
            self._subject.release()
        self._subject = None
        gc.collect()
        heap.trim()

    def stage(self, name: str, key: Mapping[str, Any], produce: Callable[[Path, Bar], None]) -> CachedStage:
        """Runs one cached stage under a progress bar and logs it."""
        began = time.monotonic()
        with self.reporter.stage(name) as bar:
            identity = json.loads(json.dumps({**key, **self._tools}, default=_plain))
            done = StageCache.default().run(name, identity, lambda out: self._produce(produce, out, bar))
        if done.remade:
            self.reporter.note(f"the cached result of '{name}' was damaged and has been made again")
        self.used.append(done)
        self.log.append({"name": name, "seconds": round(time.monotonic() - began, 3), "cached": done.cached})
        return done

    def _produce(self, produce: Callable[[Path, Bar], None], folder: Path, bar: Bar) -> None:
        """A stage that really runs reads what earlier ones left: no byte of that may have changed."""
        for stage in self.used:
            if (damaged := stage.damaged_file()) is not None:
                raise DamagedFile(damaged, hint="build again: the cache makes it again")
        produce(folder, bar)

    def start_over(self) -> bool:
        """Throws away the cached stages that are damaged; False where there are none, and nothing would change."""
        damaged = [stage for stage in self.used if stage.damaged_file() is not None]
        for stage in damaged:
            StageCache.default().drop(stage)
            self.reporter.note(f"{stage.path} was damaged in the cache and is made again")
        self.used.clear()
        self.log.clear()
        return bool(damaged)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Path):
        return str(value)
    raise ExportError(f"{type(value).__name__} can't be part of a cache key")
