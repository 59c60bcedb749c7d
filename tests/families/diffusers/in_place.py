"""Replacement by hooks that write into a model's own tokens: what our sites are held against, traced or not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.spec import ReplaceSpec
from dsr_export.subject import Subject
from graphs.artifacts import OptimizedModel
from graphs.files import load_graph
from graphs.lowering import lower
from graphs.observe.probes import add_outputs
from tests.replacement_oracle import replace

Array = npt.NDArray[Any]
REGISTERS = np.random.default_rng(5).standard_normal((3, 32)).astype(np.float32)


@dataclass(frozen=True)
class Place:
    """Where a site's tokens are in what the block `name` returns: `at` of a tuple, or all of it; of these `rows`."""

    name: str
    at: int | None
    rows: slice = field(default_factory=lambda: slice(None))


def check_sites(
    model: Any,
    call: Callable[[Mapping[str, torch.Tensor]], torch.Tensor],
    subject: Subject,
    sites: Sequence[tuple[ReplaceSpec, int, Place]],
    made_by: Made,
    folder: Path,
) -> None:
    """`model` with hooks makes the same output as `subject`, to 1e-4, and replaces the same tokens."""
    decided: dict[str, list[Array]] = {}
    for group, layer, place in sites:
        name = f"{layer}_text" if group.stream == "text" else str(layer)
        decided[name] = []
        model.get_submodule(place.name).register_forward_hook(_writing(group, place, decided[name]))
    inputs = subject.example(3, seed=1)
    with torch.no_grad():
        expected = call({name: torch.from_numpy(value) for name, value in inputs.items()}).numpy()
    shares = {name: float(found[0].mean()) for name, found in decided.items()}
    assert all(0 < share < 1 for share in shares.values()), shares
    made = made_by(subject, inputs, list(decided), folder)
    np.testing.assert_allclose(made["out"], expected, rtol=0, atol=1e-4)
    for (name, (replaced,)), (_, _, place) in zip(decided.items(), sites, strict=True):
        np.testing.assert_array_equal(made[name][:, place.rows], replaced, err_msg=name)
        assert made[name].sum() == replaced.sum()  # none of the other stream's


def _writing(group: ReplaceSpec, place: Place, decided: list[Array]) -> Any:
    def hook(module: Any, args: Any, output: Any) -> None:
        tokens = (output if place.at is None else output[place.at])[:, place.rows]
        before = tokens.numpy().copy()
        rules = {"rule": group.rule, "threshold": group.threshold, "rounds": group.rounds, "choice": group.choice}
        after = replace(before, REGISTERS, **rules)  # type: ignore[arg-type]
        decided.append((after != before).any(-1))
        tokens.copy_(torch.from_numpy(after))

    return hook


def in_torch(subject: Subject, inputs: dict[str, Array], sites: Sequence[str], folder: Path) -> dict[str, Array]:
    """The module's output, and by site which tokens it replaces [B, n]."""
    decided: dict[str, Array] = {}

    def watch(site: str) -> Any:
        return lambda _, args, made: decided.update({site: (args[0] != made).any(-1).numpy()})

    replacements: Any = subject.module.replacements
    for site in sites:
        replacements[site].register_forward_hook(watch(site))
    with subject.reference() as runner:
        return {**runner.infer(inputs), **decided}


def in_the_graph(subject: Subject, inputs: dict[str, Array], sites: Sequence[str], folder: Path) -> dict[str, Array]:
    """The same of the traced and lowered graph."""
    lowered, _ = lower(subject.trace(folder / "traced.onnx"), folder / "lowered.onnx")
    nodes = {node.name: node for node in load_graph(lowered.path).nodes}
    masks = {site: nodes[f"dsr/lower/replacements.{site}/out"].inputs[0].name for site in sites}
    tapped = add_outputs(OptimizedModel(path=lowered.path), folder / "tapped.onnx", list(masks.values()))
    with OnnxRuntimeRunner(tapped, inputs=subject.inputs) as runner:
        made = runner.infer(inputs)
    return {"out": made["out"], **{site: made[mask][..., 0] for site, mask in masks.items()}}


Made = Callable[[Subject, dict[str, Array], Sequence[str], Path], dict[str, Array]]
MADE = [in_torch, pytest.param(in_the_graph, marks=pytest.mark.slow)]
