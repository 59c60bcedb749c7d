"""Text encoders of bundles put together by hand: how they are called, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dsr_export.bundle.reader import Bundle
from dsr_export.diffusers import attach, text_outputs
from dsr_export.errors import ExportError
from dsr_export.families.text_encoders import folder
from tests.diffusers.handmade_parts import (
    ALL,
    CLIP,
    IDS,
    LAYERS,
    ROW,
    T5,
    handmade_bundle,
    handmade_pipe,
)


def fields(output: Any) -> dict[str, Any]:
    """Which of them are there, and how many of each."""
    return {name: len(value) if isinstance(value, tuple) else 1 for name, value in output.items()}


@pytest.mark.parametrize("asked", [{}, {"output_hidden_states": True}])
@pytest.mark.parametrize("role", [CLIP, T5])
def test_encoders_return_what_transformers_returns(role: str, asked: dict[str, Any], bundle: Bundle) -> None:
    pipe = handmade_pipe()
    wanted, plain = (getattr(pipe, role)(IDS, return_dict=kind, **asked) for kind in (True, False))
    with attach(pipe, bundle, components=ALL):
        encoder = getattr(pipe, role)
        made = encoder(IDS, None, **asked)
        assert type(made) is type(wanted) and fields(made) == fields(wanted)
        assert [type(each) is tuple for each in encoder(input_ids=IDS, return_dict=False, **asked)] == [
            type(each) is tuple for each in plain
        ]
    if role == T5:
        torch.testing.assert_close(made[0], IDS[..., None] * ROW)
        assert "hidden_states" not in made or made.hidden_states[-1] is made.last_hidden_state
    else:
        torch.testing.assert_close(made[0], IDS.sum(1, keepdim=True) * ROW)
    if role == CLIP and asked:
        torch.testing.assert_close(made.hidden_states[-2], IDS[..., None] * ROW)


def test_what_the_bundle_does_not_hold_says_so_when_it_is_read(bundle: Bundle) -> None:
    pipe = handmade_pipe()
    with attach(pipe, bundle, components=CLIP):
        made = pipe.text_encoder(IDS, output_hidden_states=True)
    last, skipped = made.last_hidden_state, made.hidden_states[-3]
    assert repr(skipped) == f"<no hidden state {LAYERS - 2} of its CLIPTextModelWithProjection>"
    for read in (
        lambda: skipped.shape,
        lambda: skipped.to(dtype=torch.float32),
        lambda: torch.cat([torch.zeros(1), skipped]),
        lambda: 2 * last,
        lambda: last[0],
        lambda: list(last),
        lambda: last.numpy(),
        lambda: made.hidden_states[-1].repeat(1, 2, 1),
    ):
        with pytest.raises(ExportError, match="the bundle gives no (last )?hidden state") as caught:
            read()
        assert "components=" in str(caught.value.hint)


def test_fewer_tokens_are_filled_up_where_a_mask_says_so(bundle: Bundle) -> None:
    pipe = handmade_pipe()
    short, mask = IDS[:, :4], torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    with attach(pipe, bundle, components=(T5, CLIP)):
        for given in (mask, mask.bool(), mask.float() * 2):
            made = pipe.text_encoder_2(short, attention_mask=given).last_hidden_state
            torch.testing.assert_close(made, (short * mask)[..., None] * ROW)
        torch.testing.assert_close(pipe.text_encoder_2(IDS[0])[0], IDS[:1, :, None] * ROW)
        torch.testing.assert_close(pipe.text_encoder(IDS, torch.ones(2, 6))[0], IDS.sum(1, keepdim=True) * ROW)


@pytest.mark.parametrize(
    ("role", "args", "other", "message"),
    [
        (CLIP, (IDS[:, :4],), {}, "gives its text_encoder 4 tokens, and the bundle takes 6"),
        (T5, (torch.ones(2, 7, dtype=torch.int64),), {}, "gives its text_encoder_2 7 tokens, and the bundle takes 6"),
        (CLIP, (IDS.repeat(2, 1),), {}, "calls its text_encoder with a batch of 4, and the bundle takes 1 to 3"),
        (CLIP, (IDS, IDS > 1), {}, "an attention_mask, and the bundle reads every token"),
        (T5, (IDS, IDS[:1] > 1), {}, r"an attention_mask \[1, 6\] of ids \[2, 6\]"),
        (T5, (IDS + 14,), {}, "the text_encoder_2 has no token 23: its vocabulary has 20"),
        (T5, (IDS - 2,), {}, "has no token -1"),
        (T5, (IDS[:, :0],), {}, "gives its text_encoder_2 no tokens"),
        (T5, (), {"inputs_embeds": torch.zeros(2, 6, 3)}, "'inputs_embeds', which the bundle was built without"),
        (T5, (), {}, r"no input_ids \[prompts, tokens\]"),
        (T5, (IDS.float(),), {}, "no input_ids"),
        (T5, (IDS,), {"output_attentions": True}, "'output_attentions', which the bundle was built without"),
        (CLIP, (IDS,), {"position_ids": torch.arange(6)[None]}, "'position_ids', which the bundle was built without"),
    ],
)
def test_calls_outside_of_an_encoder_are_refused(
    role: str, args: Any, other: dict[str, Any], message: str, bundle: Bundle
) -> None:
    pipe = handmade_pipe()
    with attach(pipe, bundle, components=(CLIP, T5)), pytest.raises(ExportError, match=message):
        getattr(pipe, role)(*args, **other)


def test_a_bundle_that_does_not_say_which_state_it_gives_is_refused(tmp_path: Path) -> None:
    pipe = handmade_pipe()
    own = dict(vars(pipe))
    bundle = handmade_bundle(tmp_path, text_encoder_2={"hidden_state": None})
    with pytest.raises(ExportError, match="does not say which hidden state"):
        attach(pipe, bundle, components=ALL)
    assert vars(pipe) == own


def test_every_encoder_that_is_built_is_known_by_what_it_returns() -> None:
    assert set(text_outputs.CLASSES) == set(folder.CLASSES)
