"""Measures the packaged `digits` model: `python -m dsr_export.training.evaluate_digits` (about five minutes).

Prints JSON: how often a classifier of the real digits reads the requested class in guided samples, how the norms of
each block's tokens are spread over the trajectory, and how often replacement fires. Needs the `test` extra.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import click
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dsr_export.backends.base import as_denoiser
from dsr_export.bundle.reader import Bundle
from dsr_export.drawing.drawn import draw
from dsr_export.families import load_subject
from dsr_export.families.rae_dit.network import RaeDit
from dsr_export.sampling import sample, seeded_noise
from dsr_export.subject import Subject
from dsr_export.subjects.torch_runner import TorchRunner

Array = npt.NDArray[Any]


def class_accuracy(samples: Array, labels: Array) -> float:
    """Share of `samples [n, 1, 16, 16]` in which a support-vector classifier of the real digits reads `labels`."""
    from sklearn.datasets import load_digits
    from sklearn.svm import SVC

    data = load_digits()
    classifier = SVC(gamma=0.001).fit(data.data, data.target)
    small = samples.reshape(-1, 8, 2, 8, 2).mean(axis=(2, 4))  # back to 8x8
    pixels = np.clip((small + 1) * 8, 0, 16).reshape(len(samples), 64)
    return float((classifier.predict(pixels) == labels).mean())


@contextmanager
def watched(module: RaeDit) -> Iterator[dict[str, list[Array]]]:
    """Records, while open, each block's token norms over the counted median, and what each replacement changes."""
    seen: dict[str, list[Array]] = defaultdict(list)
    handles = []
    for i, block in enumerate(module.blocks):
        registers = module.config.register_len if i >= module.config.register_start else 0

        def norms(_: nn.Module, __: Any, out: Tensor, name: str = f"block {i}", skip: int = registers) -> None:
            size = out[:, skip:].norm(dim=-1)
            seen[name].append((size / size.median(dim=1, keepdim=True).values).numpy().ravel())

        handles.append(block.register_forward_hook(norms))
    for layer, replacement in module.replacements.items():

        def fired(_: nn.Module, args: Any, out: Tensor, name: str = f"replaced {layer}") -> None:
            seen[name].append((out != args[0]).any(dim=-1).float().mean(dim=1).numpy())

        handles.append(replacement.register_forward_hook(fired))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def evaluate(subject: Subject, count: int, seed: int) -> dict[str, Any]:
    """Draws `count` guided samples, an equal number of each class, and summarises them."""
    labels = np.arange(count) % 10
    assert subject.sampler is not None  # a denoiser
    with watched(cast(RaeDit, subject.module)) as seen, TorchRunner(subject) as runner:
        samples = sample(as_denoiser(runner), subject.sampler, seeded_noise(seed, count, (1, 16, 16)), labels)
    blocks = {name: _spread(np.concatenate(values)) for name, values in seen.items() if name.startswith("block")}
    rates = {name: float(np.concatenate(v).mean()) for name, v in seen.items() if name.startswith("replaced")}
    images = {k: float((np.concatenate(v) > 0).mean()) for k, v in seen.items() if k.startswith("replaced")}
    return {
        "samples": count,
        "class_accuracy": class_accuracy(samples, labels),
        "norm_over_median": blocks,
        "share_of_tokens_replaced": rates,
        "share_of_calls_with_a_replacement": images,
    }


def _spread(ratios: Array) -> dict[str, float]:
    marks = {"p50": 50, "p99": 99, "p99.9": 99.9, "p99.99": 99.99, "max": 100}
    return {name: round(float(np.percentile(ratios, mark)), 3) for name, mark in marks.items()}


def evaluate_bundle(path: Path, count: int, seed: int) -> dict[str, Any]:
    """The same samples from a bundle of the model, in whatever precision it is; only their classes can be judged."""
    samples = draw(
        Bundle.open(path),
        label=None,
        count=count,
        seed=seed,
        steps=None,
        guidance=None,
        runtime="auto",
        progress=lambda done, total: None,
    )
    return {"samples": count, "class_accuracy": class_accuracy(samples, np.arange(count) % 10)}


@click.command()
@click.option("--model", default="digits", show_default=True)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Other weights for the same architecture.")
@click.option("--bundle", type=click.Path(path_type=Path), help="A bundle of the model, in place of PyTorch.")
@click.option("--count", default=500, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(model: str, checkpoint: Path | None, bundle: Path | None, count: int, seed: int) -> None:
    """Measure the packaged digits model."""
    if bundle is not None:
        click.echo(json.dumps(evaluate_bundle(bundle, count, seed), indent=2))
        return
    torch.manual_seed(seed)
    click.echo(json.dumps(evaluate(load_subject(model, checkpoint=checkpoint), count, seed), indent=2))


if __name__ == "__main__":
    main()
