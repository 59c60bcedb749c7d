"""Between tensors of torch and a runner: nothing is copied, and nothing stays open."""

from __future__ import annotations

import pytest
import torch

from dsr_export.bundle.reader import Bundle
from dsr_export.diffusers import attach
from dsr_export.diffusers.running import Running
from dsr_export.errors import ExportError
from tests.diffusers.handmade_parts import (
    ALL,
    IDS,
    T5,
    TOKENS,
    VAE,
    WIDTH,
    Z,
    handmade_pipe,
)


class OnDevice:
    """Stands for a runner on a GPU: it takes and gives tensors where they lie."""

    name = "device"
    upload = infer = None

    def __init__(self, outputs: dict[str, torch.Tensor]) -> None:
        self.outputs, self.given, self.closed = outputs, dict[str, torch.Tensor](), False

    def infer_on_device(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.given = inputs
        return self.outputs

    def __exit__(self, *_: object) -> None:
        self.closed = True


def test_nothing_is_copied_on_its_way_to_a_device_and_back(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Running, "device", torch.device("cpu"))  # where the tensors of this test lie
    pipe, z, image, embeds = handmade_pipe(), Z.clone(), torch.ones(2, 3, 8, 8), torch.ones(2, TOKENS, WIDTH)
    z.requires_grad_()
    with attach(pipe, bundle, components=(VAE, T5)) as attached:
        vae, t5 = OnDevice({"image": image}), OnDevice({"embeds": embeds})
        attached._running[0]._runner, attached.parts[T5]._running[0]._runner = vae, t5  # type: ignore[assignment]
        made = pipe.vae.decode(z).sample
        states = pipe.text_encoder_2(IDS).last_hidden_state
    assert vae.given["z"].data_ptr() == z.data_ptr() and made.data_ptr() == image.data_ptr()
    assert t5.given["ids"].tolist() == IDS.tolist() and states.data_ptr() == embeds.data_ptr()


def test_what_was_opened_is_closed_where_a_later_part_fails(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[OnDevice] = []

    def runner(self: Bundle, runtime: str) -> OnDevice:
        if len(opened) == 2:
            raise ExportError("no memory is left")
        opened.append(OnDevice({}))
        return opened[-1]

    monkeypatch.setattr(Bundle, "runner", runner)
    with pytest.raises(ExportError, match="no memory is left"):
        attach(handmade_pipe(), bundle, components=ALL)
    assert [each.closed for each in opened] == [True, True]
