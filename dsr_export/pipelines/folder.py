"""A pipeline's folder on disk: which parts it names, and their configurations. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsr_export.errors import ExportError, did_you_mean
from dsr_export.families.config_bounds import check_config
from dsr_export.readable import readable
from graphs.foreign.small_files import read_json_object

INDEX, CONFIG, SCHEDULER_CONFIG = "model_index.json", "config.json", "scheduler_config.json"
TRANSFORMER, SCHEDULER, VAE = "transformer", "scheduler", "vae"
VAE_ENCODER = "vae_encoder"
"""The way back, from pictures to latents; it lies in the folder of the other."""
VAES = (VAE, VAE_ENCODER)
_AGAIN = "copy or download the pipeline again"


@dataclass(frozen=True, kw_only=True)
class PipelineFolder:
    """`classes` is what `model_index.json` says of each part that is there: its class's name."""

    path: Path
    class_name: str
    classes: Mapping[str, str]

    @property
    def name(self) -> str:
        return readable(self.path.resolve().name)

    def class_of(self, role: str) -> str:
        """The class of a part. ExportError where the pipeline has none."""
        self.part(role)
        return self.classes[VAE if role in VAES else role]

    def part(self, role: str) -> Path:
        """The subfolder of a part. ExportError where the pipeline has none, or the subfolder is not there."""
        role = VAE if role in VAES else role
        if role not in self.classes:
            raise ExportError(f"the pipeline in {self.path} has no {role}", hint=f"see its {INDEX}")
        path = self.path / role
        if not path.is_dir():
            raise ExportError(f"{self.path} has no subfolder '{role}', which its {INDEX} names", hint=_AGAIN)
        return path

    def config(self, role: str) -> Mapping[str, Any]:
        """A part's `config.json`, its sizes held against bounds."""
        file = self.part(role) / CONFIG
        if not file.is_file():
            raise ExportError(f"{self.part(role)} holds no {CONFIG}", hint=_AGAIN)
        found = read_json_object(file, hint=_AGAIN)
        check_config(found, str(file))
        return found

    def scheduler_file(self) -> Path:
        """The scheduler's configuration."""
        file = self.part(SCHEDULER) / SCHEDULER_CONFIG
        if not file.is_file():
            raise ExportError(f"{self.part(SCHEDULER)} holds no {SCHEDULER_CONFIG}", hint=_AGAIN)
        return file

    def scheduler(self) -> Mapping[str, Any]:
        """What the scheduler's file says."""
        return read_json_object(self.scheduler_file(), hint=_AGAIN)


def open_pipeline(path: Path) -> PipelineFolder:
    """Reads the index of a pipeline's folder.

    Raises ExportError where there is no such folder, it holds no pipeline, or the index is none.
    """
    if not path.is_dir():
        siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, siblings) or "download the model first; nothing is fetched from the network"
        raise ExportError(f"no such folder: {path}", hint=hint)
    if not (path / INDEX).is_file():
        hint = "give the folder that a pipeline's save_pretrained wrote, or leave out --components"
        raise ExportError(f"{path} is no pipeline: it has no {INDEX}", hint=hint)
    index = read_json_object(path / INDEX, hint=_AGAIN)
    name = index.get("_class_name")
    if not isinstance(name, str):
        raise ExportError(f"{path / INDEX} names no _class_name", hint=_AGAIN)
    parts = {role: entry for role, entry in index.items() if isinstance(entry, list) and len(entry) == 2}
    classes = {role: entry[1] for role, entry in parts.items() if isinstance(entry[1], str)}
    return PipelineFolder(path=path, class_name=name, classes=classes)
