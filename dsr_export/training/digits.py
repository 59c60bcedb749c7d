"""Trains the packaged `digits` model: `python -m dsr_export.training.digits --out FOLDER` (about 40 min on 2 cores).

Flow matching on scikit-learn's 8x8 digits, enlarged to 16x16, with data prediction, an EMA of the weights and
label dropout for guidance. Needs the `test` extra (scikit-learn).
"""

from __future__ import annotations

import copy
import json
import math
import time
from pathlib import Path

import click
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from dsr_export.families.rae_dit.digits import packaged_config
from dsr_export.families.rae_dit.network import RaeDit
from dsr_export.sampling import MIN_TIME

CONFIG = packaged_config()
EMA_DECAY = 0.998


def load_images() -> tuple[Tensor, Tensor]:
    """All 1,797 digits as `[n, 1, 16, 16]` in [-1, 1], and their labels `[n]`."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 8 - 1
    return F.interpolate(images, scale_factor=2, mode="bilinear"), torch.from_numpy(data.target).long()


def flow_loss(model: RaeDit, x0: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """Velocity loss of a data-predicting network: ||x0_hat - x0||^2 / max(t, 0.05)^2, t ~ logit-normal(0, 1)."""
    t = torch.randn(len(x0), generator=generator).sigmoid()
    noise = torch.randn(x0.shape, generator=generator)
    dropped = torch.rand(len(y), generator=generator) < model.config.class_dropout_prob
    y = torch.where(dropped, model.config.num_classes, y)
    tt = t[:, None, None, None]
    prediction = model((1 - tt) * x0 + tt * noise, t, y)
    loss: Tensor = ((prediction - x0).square() / tt.clamp(min=MIN_TIME).square()).mean()
    return loss


def train(model: RaeDit, *, steps: int, batch: int, rate: float, seed: int) -> RaeDit:
    """Returns the EMA of the weights after `steps` AdamW steps with warm-up and cosine decay."""
    images, labels = load_images()
    generator = torch.Generator().manual_seed(seed)
    ema = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.01)
    started = time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
        index = torch.randint(len(images), (batch,), generator=generator)
        loss = flow_loss(model, images[index], labels[index], generator)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            for average, value in zip(ema.parameters(), model.parameters(), strict=True):
                average.lerp_(value, 1 - decay)
        if step % 50 == 0 or step == steps - 1:
            click.echo(f"step {step}/{steps} loss {loss.item():.4f} {time.monotonic() - started:.0f} s", err=True)
    return ema


def save(model: RaeDit, folder: Path, recipe: dict[str, float | int]) -> None:
    """Writes `weights.safetensors` and `recipe.json` (the arguments that made them)."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "weights.safetensors")
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the weights.")
@click.option("--steps", default=4000, show_default=True)
@click.option("--batch", default=64, show_default=True)
@click.option("--rate", default=1e-3, show_default=True, help="Peak learning rate.")
@click.option("--seed", default=0, show_default=True)
def main(out: Path, steps: int, batch: int, rate: float, seed: int) -> None:
    """Train the packaged `digits` denoiser."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    model = train(RaeDit(CONFIG), steps=steps, batch=batch, rate=rate, seed=seed)
    save(model.eval(), out, {"steps": steps, "batch": batch, "rate": rate, "seed": seed})


if __name__ == "__main__":
    main()
