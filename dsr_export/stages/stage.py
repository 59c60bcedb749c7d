"""What a stage is: a frozen value. Its fields are all that its work can read, and they are what it is cached by."""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from dsr_export.progress import Bar
from dsr_export.storage.cache import CachedStage
from dsr_export.storage.disk import Recorded

MODEL, FACTS = "model.onnx", "facts.json"


@dataclass(frozen=True)
class Result:
    """What a stage left in its folder. Later stages are keyed by its contents, wherever they lie."""

    made: CachedStage

    @property
    def digest(self) -> str:
        """Stands for every byte of every file."""
        return self.made.digest

    @property
    def folder(self) -> Path:
        """Not to be written into."""
        return self.made.path

    @property
    def facts(self) -> Any:
        """What the stage tells the report, in plain values."""
        return read_json(self.folder / FACTS)

    def file(self, name: str) -> Recorded:
        """The file `name` with its checksum. KeyError where the stage wrote none."""
        return self.made.file(name)


R = TypeVar("R", bound=Result)


class Stage(ABC, Generic[R]):
    """A frozen dataclass for each kind; `name` is the folder in the cache, and the line that a user sees."""

    name: ClassVar[str]

    @abstractmethod
    def work(self, folder: Path, bar: Bar) -> None:
        """Writes the result into the empty `folder`. Reads its own fields and nothing else."""

    @abstractmethod
    def result(self, made: CachedStage) -> R:
        """What `work` has written, as later stages take it."""

    def key(self) -> dict[str, Any]:
        """JSON values that stand for every field."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # each subclass is a dataclass
        return {field.name: stage_key(getattr(self, field.name)) for field in fields}


def stage_key(value: Any) -> Any:
    """JSON values that stand for `value`: results by their contents, dataclasses by their fields.

    A class with a method `stage_key` says itself what it is known by.

    Raises:
        TypeError: `value` has no value of its own, as a path has none: what lies there may change.
    """
    if isinstance(value, Result):
        more = {field.name: stage_key(getattr(value, field.name)) for field in dataclasses.fields(value)[1:]}
        return {"of": value.digest, **more}
    if callable(own := getattr(value, "stage_key", None)):
        return own()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: stage_key(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): stage_key(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [stage_key(each) for each in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"{type(value).__name__} can't be part of a stage's key")


def write_json(path: Path, value: Any) -> None:
    """Plain values as a file."""
    path.write_text(json.dumps(value, indent=1, sort_keys=True), encoding="utf-8")


def read_json(path: Path) -> Any:
    """As `write_json` wrote it."""
    return json.loads(path.read_text(encoding="utf-8"))
