"""What the steps come to, kept in the cache: whoever is stopped behind them goes on there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from dsr_export.fitting.processes import Processes
from dsr_export.fitting.tensors import Trained
from dsr_export.storage.cache import StageCache

_LOSSES, _UNTOUCHED = "losses", "untouched"


@dataclass(frozen=True, kw_only=True)
class Result:
    """Tensors by file, the loss of every step, and the files that nothing reached."""

    made: Trained
    losses: list[float]
    untouched: list[str]


def kept_result(
    cache: StageCache, key: Mapping[str, Any], train: Callable[[], Result], together: Processes
) -> Result | None:
    """What `train` comes to, or came to before; None in a process that does not lead, which takes part all the same."""
    if not together.leads:
        if together.told(None):
            train()
        return None

    def produce(folder: Path) -> None:
        together.told(True)
        _save(train(), folder)

    stage = cache.run("fit", key, produce)
    if stage.cached:
        together.told(False)
    return _loaded(stage.path)


def _save(result: Result, folder: Path) -> None:
    for name, tensors in result.made.items():
        save_file({each: value.contiguous() for each, value in tensors.items()}, folder / name)
    flags = torch.tensor([name in result.untouched for name in sorted(result.made)])
    save_file({_LOSSES: torch.tensor(result.losses, dtype=torch.float64), _UNTOUCHED: flags}, folder / _LOSSES)


def _loaded(folder: Path) -> Result:
    made = {path.name: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
    kept = load_file(folder / _LOSSES)
    untouched = [name for name, flag in zip(made, kept[_UNTOUCHED].tolist(), strict=True) if flag]
    return Result(made=made, losses=kept[_LOSSES].tolist(), untouched=untouched)
