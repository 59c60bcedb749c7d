"""The lowered graph of `digits-outliers` replaces the same tokens by the same registers as the PyTorch loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import onnxruntime
import pytest
import torch

from dsr_export.families import load_subject
from dsr_export.families.rae_dit.network import RaeDit
from graphs.files import load_graph, save_graph
from graphs.lowering import lower
from tests.graphs.rewrites.test_lower_replace_outliers import adversarial_inputs

LAYERS = (3, 5)
TOKENS, DIM, REGISTERS = 68, 128, 4


def _only_site(lowered: Path, layer: int, out: Path) -> onnxruntime.InferenceSession:
    """One site alone: tokens in, tokens out."""
    graph = load_graph(lowered)
    (result,) = (node for node in graph.nodes if node.name == f"dsr/lower/replacements.{layer}/out")
    tokens = result.inputs[2]  # Where(replaced, register, token)
    tokens.inputs.clear()
    tokens.dtype, tokens.shape = np.float32, ("batch", TOKENS, DIM)
    graph.inputs, graph.outputs = [tokens], result.outputs
    save_graph(graph, out)  # which drops what the site does not read
    return onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def module_and_sites(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[RaeDit, dict[int, onnxruntime.InferenceSession]]:
    folder = tmp_path_factory.mktemp("decisions")
    subject = load_subject("digits-outliers")
    lower(subject.trace(folder / "traced.onnx"), folder / "lowered.onnx")
    sites = {layer: _only_site(folder / "lowered.onnx", layer, folder / f"site{layer}.onnx") for layer in LAYERS}
    return cast(RaeDit, subject.module), sites


def _tokens(rng: np.random.Generator, registers: np.ndarray, rounds: int) -> Iterator[np.ndarray]:
    for _ in range(rounds):
        for tokens in adversarial_inputs(rng, TOKENS, registers):
            yield tokens
            yield np.concatenate([registers[None], tokens[:, REGISTERS:]], axis=1)


def test_a_thousand_inputs_are_decided_alike(
    module_and_sites: tuple[RaeDit, dict[int, onnxruntime.InferenceSession]], rng: np.random.Generator
) -> None:
    """Bit-equal outputs: each token is either itself or exactly the same register."""
    module, sites = module_and_sites
    registers = module.registers().numpy()
    seen = replaced = untouched = 0
    for x in _tokens(rng, registers, 26):
        for layer, session in sites.items():
            expected = module.replacements[str(layer)](torch.from_numpy(x), module.registers()).numpy()
            got = session.run(None, {session.get_inputs()[0].name: x})[0]
            np.testing.assert_array_equal(got, expected)
            seen += 1
            changed = (got.view(np.uint32) != x.view(np.uint32)).any(axis=(0, 2))
            assert not changed[:REGISTERS].any()
            replaced += int(changed.sum())
            untouched += int(not changed.any())
    assert seen >= 1000
    assert replaced > 1000
    assert untouched > 100


def test_the_planted_corners_are_what_is_replaced(
    module_and_sites: tuple[RaeDit, dict[int, onnxruntime.InferenceSession]],
) -> None:
    module, _ = module_and_sites
    seen: list[np.ndarray] = []

    def remember(_: torch.nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        seen.append((out != args[0]).any(dim=-1).numpy())

    handle = module.replacements["3"].register_forward_hook(remember)
    subject = load_subject("digits-outliers")
    with torch.inference_mode():
        module(*(torch.from_numpy(value) for value in subject.example(8, seed=0).values()))
    handle.remove()
    corners = [REGISTERS + row for row in (0, 7, 56, 63)]
    assert [np.flatnonzero(row).tolist() for row in seen[0]] == [corners] * 8
