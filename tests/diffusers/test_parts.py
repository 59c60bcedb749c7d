"""Text encoders and autoencoders of bundles put together by hand: how they are called, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dsr_export.bundle.reader import Bundle
from dsr_export.diffusers import AttachedAutoencoder, AttachedTextEncoder, attach, text_outputs
from dsr_export.diffusers.attaching import chosen_parts
from dsr_export.diffusers.running import Running
from dsr_export.errors import ExportError
from dsr_export.families.text_encoders import folder
from tests.diffusers.handmade_parts import LAYERS, TOKENS, WIDTH, handmade_bundle, handmade_pipe

CLIP, T5, VAE = "text_encoder", "text_encoder_2", "vae"
ALL = (VAE, CLIP, T5)
IDS = torch.tensor([[3, 5, 6, 1, 1, 1], [3, 7, 8, 9, 1, 1]])
ROW = torch.tensor([1.0, 2.0, 3.0])
Z = torch.arange(64.0).view(2, 2, 4, 4)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return handmade_bundle(tmp_path_factory.mktemp("handmade"))


def fields(output: Any) -> dict[str, Any]:
    """Which of them are there, and how many of each."""
    return {name: len(value) if isinstance(value, tuple) else 1 for name, value in output.items()}


def test_each_part_is_replaced_and_put_back(bundle: Bundle) -> None:
    pipe = handmade_pipe()
    own = dict(vars(pipe))
    with attach(pipe, bundle, components=ALL) as attached:
        assert list(attached.parts) == list(ALL) and attached is pipe.vae
        assert isinstance(pipe.vae, AttachedAutoencoder) and isinstance(pipe.text_encoder_2, AttachedTextEncoder)
        for role in ALL:
            part = getattr(pipe, role)
            assert part.original is own[role] and part.config is own[role].config and not list(part.parameters())
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


def test_latents_become_pictures_as_the_autoencoder_says_it(bundle: Bundle) -> None:
    pipe = handmade_pipe()
    kinds = [type(each) for each in (pipe.vae.decode(Z), pipe.vae.encode(torch.zeros(1, 3, 8, 8)))]
    wanted = Z[:, [0, 1, 0]].repeat_interleave(2, 2).repeat_interleave(2, 3)
    with attach(pipe, bundle, components=VAE):
        made = pipe.vae.decode(Z)
        torch.testing.assert_close(made.sample, wanted)
        for tuples in (pipe.vae.decode(Z, False), pipe.vae.decode(z=Z, return_dict=False, generator=None)):
            assert isinstance(tuples, tuple)
            torch.testing.assert_close(tuples[0], wanted)
        back = pipe.vae.encode(wanted)
        assert [type(made), type(back)] == kinds
        torch.testing.assert_close(back.latent_dist.mode(), Z)
        torch.testing.assert_close(pipe.vae.encode(wanted, return_dict=False)[0].mean, Z)
        torch.testing.assert_close(pipe.vae(wanted).sample, wanted)
        for call in (back.latent_dist.sample, back.latent_dist.kl, lambda: pipe.vae(wanted, sample_posterior=True)):
            with pytest.raises(ExportError, match="gives no variance of latents") as caught:
                call()
            assert "mode()" in str(caught.value.hint)


def test_slices_go_row_by_row_and_tiles_are_refused(bundle: Bundle) -> None:
    pipe = handmade_pipe()
    many = torch.cat([Z, Z])
    with attach(pipe, bundle, components=VAE):
        with pytest.raises(ExportError, match="calls its vae with a batch of 4, and the bundle takes 1 to 3") as caught:
            pipe.vae.decode(many)
        assert "--component-batch vae=1,2,4" in str(caught.value.hint)
        pipe.vae.enable_slicing()
        assert pipe.vae.decode(many).sample.shape == (4, 3, 8, 8)
        pipe.vae.enable_tiling()
        pipe.vae.decode(many)  # no larger than one tile
        pipe.vae.tile_latent_min_size = 3
        with pytest.raises(ExportError, match="tiles are asked for") as caught:
            pipe.vae.decode(many)
        assert "disable_tiling" in str(caught.value.hint)
        pipe.vae.disable_tiling()
        pipe.vae.decode(many)


@pytest.mark.parametrize("z", [Z[0], Z[..., :3], Z[:, :1], Z.long(), None])
def test_other_latents_are_refused(z: Any, bundle: Bundle) -> None:
    pipe = handmade_pipe()
    with attach(pipe, bundle, components=VAE), pytest.raises(ExportError, match="gives its vae"):
        pipe.vae.decode(z)


def test_one_way_alone_refuses_the_other(tmp_path: Path) -> None:
    pipe = handmade_pipe()
    with attach(pipe, handmade_bundle(tmp_path, "vae_encoder"), components=VAE):
        with pytest.raises(ExportError, match="does not hold an encoder of pictures") as caught:
            pipe.vae.encode(torch.zeros(1, 3, 8, 8))
        assert "--components all,vae_encoder" in str(caught.value.hint)
    again = tmp_path / "again"
    again.mkdir()
    with attach(pipe, handmade_bundle(again, "vae"), components=VAE):
        assert pipe.vae.encode(torch.zeros(1, 3, 8, 8)).latent_dist.mode().shape == (1, 2, 4, 4)
        with pytest.raises(ExportError, match="does not hold a decoder of latents"):
            pipe.vae.decode(Z)


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


def test_a_bundle_that_does_not_say_which_state_it_gives_is_refused(tmp_path: Path) -> None:
    pipe = handmade_pipe()
    own = dict(vars(pipe))
    bundle = handmade_bundle(tmp_path, text_encoder_2={"hidden_state": None})
    with pytest.raises(ExportError, match="does not say which hidden state"):
        attach(pipe, bundle, components=ALL)
    assert vars(pipe) == own


def test_a_runtime_that_is_not_there_leaves_the_pipeline_as_it_was(bundle: Bundle) -> None:
    pipe = handmade_pipe()
    own = dict(vars(pipe))
    with pytest.raises(ExportError, match="holds no tensorrt-rtx engine"):
        attach(pipe, bundle, components=ALL, runtime="tensorrt-rtx")
    assert vars(pipe) == own


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


def test_every_encoder_that_is_built_is_known_by_what_it_returns() -> None:
    assert set(text_outputs.CLASSES) == set(folder.CLASSES)


def test_attaching_leaves_no_width_to_chance() -> None:
    """The graphs above are of the sizes that the modules say."""
    pipe = handmade_pipe()
    assert pipe.text_encoder.config.hidden_size == pipe.text_encoder_2.config.d_model == WIDTH
    assert IDS.shape[1] == TOKENS
