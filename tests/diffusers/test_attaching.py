"""Which parts of a pipeline are replaced, and that they come back; bundles are put together by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dsr_export.bundle.reader import Bundle
from dsr_export.diffusers import AttachedAutoencoder, AttachedTextEncoder, attach
from dsr_export.diffusers.attaching import chosen_parts
from dsr_export.errors import ExportError
from tests.diffusers.handmade_parts import (
    ALL,
    CLIP,
    IDS,
    T5,
    TOKENS,
    VAE,
    WIDTH,
    Z,
    handmade_bundle,
    handmade_pipe,
)


def test_each_part_is_replaced_and_put_back(bundle: Bundle) -> None:
    pipe = handmade_pipe()
    own = dict(vars(pipe))
    with attach(pipe, bundle, components=ALL) as attached:
        assert list(attached.parts) == list(ALL) and attached is pipe.vae
        assert isinstance(pipe.vae, AttachedAutoencoder) and isinstance(pipe.text_encoder_2, AttachedTextEncoder)
        for role in ALL:
            part = getattr(pipe, role)
            assert (
                part.original is own[role] and part.config is own[role].config and not next(part.parameters()).numel()
            )
            assert part.bundle is bundle.component(role) and not part.training
        assert pipe.vae.config.scaling_factor == 0.5
        assert pipe.text_encoder.get_input_embeddings() is own[CLIP].get_input_embeddings()
        with pytest.raises(ExportError, match="to this pipeline's text_encoder already"):
            attach(pipe, bundle, components=CLIP)
    assert vars(pipe) == own
    for call in (lambda: attached.decode(Z), lambda: attached.parts[CLIP](IDS)):
        with pytest.raises(ExportError, match="is detached"):
            call()
    attached.detach()


def test_compiled_modules_are_known_by_what_they_wrap(bundle: Bundle) -> None:
    pipe, own = handmade_pipe(), {}
    for role in ALL:
        own[role] = torch.compile(getattr(pipe, role), backend="eager")
        setattr(pipe, role, own[role])
    with attach(pipe, bundle, components=ALL):
        assert pipe.text_encoder_2(IDS)[0].shape == (2, TOKENS, WIDTH) and pipe.text_encoder(IDS)[0].shape == (2, WIDTH)
        wanted = pipe.vae.decode(Z).sample
        torch.testing.assert_close(pipe.vae(wanted).sample, wanted)
    assert {role: getattr(pipe, role) for role in ALL} == own


def test_two_attachments_end_on_their_own(bundle: Bundle) -> None:
    pipe = handmade_pipe()
    own = dict(vars(pipe))
    first, second = attach(pipe, bundle, components="vae"), attach(pipe, bundle, components=[T5])
    first.detach()
    assert pipe.vae is own[VAE] and pipe.text_encoder_2 is second
    pipe.text_encoder_2 = other = handmade_pipe().text_encoder_2
    second.detach()
    assert pipe.text_encoder_2 is other  # not what stood there long before


def test_outputs_are_of_the_type_that_the_pipeline_works_in(bundle: Bundle) -> None:
    pipe = handmade_pipe()
    with attach(pipe, bundle, components=ALL):
        for role in ALL:
            getattr(pipe, role).to(torch.float16)
            assert getattr(pipe, role).dtype == torch.float16
        assert pipe.text_encoder(IDS)[0].dtype == torch.float16
        assert pipe.vae.decode(Z.half()).sample.dtype == torch.float16
        assert pipe.vae.original.dtype == torch.float32
    assert pipe.vae.dtype == pipe.text_encoder.dtype == torch.float16  # as if it had been there


@pytest.mark.parametrize(
    ("components", "message", "hint"),
    [
        ("text_encoder_3", "holds no text_encoder_3", "it holds transformer, vae, text_encoder, text_encoder_2"),
        ("vea", "a pipeline has no part 'vea'", "'vae'"),
        (("vae", "decoder"), "a pipeline has no part 'decoder'", "parts: transformer, vae"),
        ((), "no part is to be attached", "transformer, vae"),
        ("all", "SimpleNamespace has no transformer", "around one"),
    ],
)
def test_parts_that_are_not_there_are_refused(components: Any, message: str, hint: str, bundle: Bundle) -> None:
    pipe = handmade_pipe()
    own = dict(vars(pipe))
    with pytest.raises(ExportError, match=message) as caught:
        attach(pipe, bundle, components=components)
    assert hint in str(caught.value.hint) and vars(pipe) == own
    pipe.text_encoder = None
    with pytest.raises(ExportError, match="has no text_encoder"):
        attach(pipe, bundle, components=(VAE, CLIP))
    assert pipe.vae is own[VAE]


def test_all_is_what_the_bundle_holds_and_the_pipeline_has(bundle: Bundle, tmp_path: Path) -> None:
    pipe = handmade_pipe()
    pipe.transformer = torch.nn.Identity()
    assert chosen_parts(pipe, bundle, "all") == ["transformer", *ALL]
    assert chosen_parts(pipe, bundle, [T5, "transformer", T5]) == ["transformer", T5]
    pipe.text_encoder = None  # the prompts come embedded
    assert chosen_parts(pipe, bundle, "all") == ["transformer", VAE, T5]
    assert chosen_parts(pipe, handmade_bundle(tmp_path, "vae"), "all") == ["transformer", T5]  # one that can't decode


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"vae": {"scaling_factor": 0.25}}, "scaling_factor is 0.25 there, and 0.5 in the pipeline"),
        ({"vae": {"_class_name": "AutoencoderDC"}}, "was built of a AutoencoderDC, and the pipeline's vae is a Auto"),
        ({"text_encoder_2": {"num_hidden_layers": 3}}, "num_hidden_layers is 3 there, and 2 in the pipeline"),
        ({"text_encoder": {"_class_name": "CLIPTextModel"}}, "the pipeline's text_encoder is a CLIPTextModelWithProj"),
    ],
)
def test_parts_of_another_model_are_refused(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    pipe = handmade_pipe()
    own = dict(vars(pipe))
    with pytest.raises(ExportError, match=message):
        attach(pipe, handmade_bundle(tmp_path, **changed), components=ALL)
    assert vars(pipe) == own


def test_a_runtime_that_is_not_there_leaves_the_pipeline_as_it_was(bundle: Bundle) -> None:
    pipe = handmade_pipe()
    own = dict(vars(pipe))
    with pytest.raises(ExportError, match="holds no tensorrt-rtx engine"):
        attach(pipe, bundle, components=ALL, runtime="tensorrt-rtx")
    assert vars(pipe) == own


def test_attaching_leaves_no_width_to_chance() -> None:
    """The graphs above are of the sizes that the modules say."""
    pipe = handmade_pipe()
    assert pipe.text_encoder.config.hidden_size == pipe.text_encoder_2.config.d_model == WIDTH
    assert IDS.shape[1] == TOKENS
