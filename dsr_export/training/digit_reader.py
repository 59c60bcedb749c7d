"""Trains the packaged reader of digits: `python -m dsr_export.training.digit_reader --out FILE` (about two minutes).

A small classifier of scikit-learn's digits, enlarged as the packaged model draws them, under shifts, blur and noise:
it is to judge generated pictures as well as scanned ones. The file also holds the moments of the real digits'
features. Needs the `test` extra (scikit-learn).
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from dsr_export.evaluation.features.digit_reader import REAL, DigitReader
from dsr_export.evaluation.moments import Moments
from dsr_export.training.digits import load_images

HELD_OUT = 5  # every fifth digit is not trained on


def varied(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images [n, 1, 16, 16] shifted by up to a pixel, and with noise of a random strength."""
    shifts = torch.randint(-1, 2, (2,), generator=generator).tolist()
    moved = torch.roll(F.pad(images, (1, 1, 1, 1), value=-1.0), shifts, dims=(2, 3))[:, :, 1:-1, 1:-1]
    strength = 0.2 * torch.rand(len(images), 1, 1, 1, generator=generator)
    return (moved + strength * torch.randn(images.shape, generator=generator)).clamp(-1, 1)


def train(images: Tensor, labels: Tensor, *, steps: int, seed: int) -> DigitReader:
    """AdamW with a cosine decay, label smoothing 0.05."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = DigitReader()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        chosen = torch.randint(len(images), (64,), generator=generator)
        logits = network(varied(images[chosen], generator))[1]
        loss = F.cross_entropy(logits, labels[chosen], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        decay.step()
    return network.eval()


@torch.inference_mode()
def accuracy(network: DigitReader, images: Tensor, labels: Tensor) -> float:
    return float((network(images)[1].argmax(dim=1) == labels).float().mean())


@torch.inference_mode()
def real_moments(network: DigitReader, images: Tensor) -> Moments:
    """Of all real digits, as pictures of 8 bits."""
    pictures = ((images * 0.5 + 0.5).clamp(0, 1) * 255).round()
    return Moments.of(np.asarray(network(pictures / 127.5 - 1)[0]))


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file to write.")
@click.option("--steps", default=3000, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(out: Path, steps: int, seed: int) -> None:
    """Train the packaged reader of digits."""
    images, labels = load_images()
    held = torch.arange(len(images)) % HELD_OUT == 0
    network = train(images[~held], labels[~held], steps=steps, seed=seed)
    click.echo(f"reads {accuracy(network, images[held], labels[held]):.2%} of the digits held out", err=True)
    real = {
        name: torch.from_numpy(np.array(value)) for name, value in real_moments(network, images).arrays(REAL).items()
    }
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file({**weights, **real}, out)


if __name__ == "__main__":
    main()
