"""How far a training is, in one file: a run that is stopped goes on from it to the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load, save_file
from torch import Tensor

from dsr_export.storage.atomic import atomic_file

BETAS = (0.9, 0.99)
_LOSSES, _MOMENTS = "losses", ("exp_avg", "exp_avg_sq")


class State:
    """After `len(losses)` steps: the model's own tensors by name, their running averages, and AdamW with moments."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        self.values = dict(values)
        self.averages = {name: value.detach().clone() for name, value in values.items()}
        self.optimizer = torch.optim.AdamW(list(self.values.values()), betas=BETAS, weight_decay=0.0)
        self.losses: list[float] = []

    def save(self, path: Path) -> None:
        """Writes it whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            save_file(self.tensors(), temporary)

    def moved(self) -> bool:
        """Whether any gradient has been other than 0, of late."""
        return any(bool(kept["exp_avg"].any()) for kept in self.optimizer.state.values())

    @torch.no_grad()
    def resume(self, path: Path) -> None:
        """Takes over what `path` holds, if it is of the same tensors; anything else is passed over."""
        try:
            found = load(path.read_bytes())
        except Exception:  # absent, or damaged: safetensors raises an error of its own
            return
        names = list(self.values)
        wanted = {f"{kind}:{name}" for kind in ("value", "average", *_MOMENTS) for name in names}
        if set(found) != {_LOSSES, *wanted} or any(found[f"value:{n}"].shape != self.values[n].shape for n in names):
            return
        self.take(found)

    @torch.no_grad()
    def take(self, found: Mapping[str, Tensor]) -> None:
        """Takes over what `tensors` of another one gave."""
        self.losses = found[_LOSSES].tolist()
        for name, value in self.values.items():
            value.copy_(found[f"value:{name}"])
            self.averages[name].copy_(found[f"average:{name}"])
            moments = {kind: found[f"{kind}:{name}"].to(value.device) for kind in _MOMENTS if self.losses}
            if moments:
                self.optimizer.state[value] = {"step": torch.tensor(float(len(self.losses))), **moments}

    def tensors(self) -> dict[str, Tensor]:
        """All of it, on the CPU; without moments before the first step."""
        made = {_LOSSES: torch.tensor(self.losses, dtype=torch.float64)}
        for name, value in self.values.items():
            kept = self.optimizer.state[value]
            made |= {f"value:{name}": value, f"average:{name}": self.averages[name]}
            made |= {f"{kind}:{name}": kept[kind] for kind in _MOMENTS if kind in kept}
        return {key: value.detach().cpu() for key, value in made.items()}
