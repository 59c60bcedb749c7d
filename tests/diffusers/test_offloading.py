"""Attached parts under the hooks by which diffusers and accelerate keep models off the GPU; the CPU stands for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dsr_export.bundle.reader import Bundle
from dsr_export.diffusers import attach
from tests.diffusers.handmade_parts import ALL, CLIP, IDS, T5, handmade_pipe

accelerate = pytest.importorskip("accelerate", reason="the package accelerate is not installed")


def one_by_one(parts: list[Any]) -> None:
    """As `enable_model_cpu_offload` does it."""
    hook = None
    for part in parts:
        _, hook = accelerate.cpu_offload_with_hook(part, torch.device("cpu:0"), prev_module_hook=hook)


def layer_by_layer(parts: list[Any]) -> None:
    """As `enable_sequential_cpu_offload` does it."""
    for part in parts:
        accelerate.cpu_offload(part, torch.device("cpu"), offload_buffers=len(part._parameters) > 0)


@pytest.mark.parametrize("offload", [one_by_one, layer_by_layer])
def test_parts_are_called_through_hooks_and_put_back_whole(offload: Any, bundle: Bundle) -> None:
    pipe = handmade_pipe()
    with attach(pipe, bundle, components=(CLIP, T5)):
        wanted = [pipe.text_encoder(IDS).text_embeds, pipe.text_encoder_2(IDS).last_hidden_state]
        offload([pipe.text_encoder, pipe.text_encoder_2])
        made = [pipe.text_encoder(IDS).text_embeds, pipe.text_encoder_2(IDS).last_hidden_state]
        assert repr(pipe.text_encoder(IDS).last_hidden_state).startswith("<no last hidden state")
        place = next(pipe.text_encoder.parameters())
        assert (place.numel(), place.dtype, place.device.type) == (0, torch.float32, "cpu")
    torch.testing.assert_close(made, wanted)
    assert {each.device.type for role in (CLIP, T5) for each in getattr(pipe, role).parameters()} == {"cpu"}


def test_what_stands_in_an_offloading_pipeline_is_hooked(bundle: Bundle) -> None:
    pipe, hooked = handmade_pipe(), []
    pipe.maybe_free_model_hooks = lambda: hooked.append([getattr(pipe, role) for role in ALL])
    originals = [getattr(pipe, role) for role in ALL]
    with attach(pipe, bundle, components=ALL):
        assert not hooked
        pipe._all_hooks = ["one"]
        parts = [getattr(pipe, role) for role in ALL]
    assert hooked == [parts, originals]
    with attach(pipe, bundle, components=ALL) as attached:
        assert hooked[2:] == [list(attached.parts.values())]
