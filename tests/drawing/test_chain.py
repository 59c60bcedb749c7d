"""What may go around a denoiser, and what does not fit."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from dsr_export.bundle.reader import Bundle
from dsr_export.drawing.chain import check_chain, open_components, pixels_of
from dsr_export.errors import ExportError
from dsr_export.families import load_subject
from dsr_export.images.preparation import PREPARATIONS
from dsr_export.subject import SubjectCard
from graphs.artifacts import TensorSpec
from tests.pipeline_parts import DENOISER, rewritten

IMAGE = TensorSpec(name="image", dtype="float32", shape=("batch", 3, 16, 16))
TOKENS = TensorSpec(name="tokens", dtype="float32", shape=("batch", 16, 8))
LATENT = TensorSpec(name="z", dtype="float32", shape=("batch", 8, 4, 4))


@pytest.fixture(scope="module")
def card() -> SubjectCard:
    return load_subject("rae-dit", random_weights=0, registers=4, **DENOISER).card()


@pytest.fixture
def encoder(decoder_bundle: Path, tmp_path: Path) -> Path:
    """The decoder's files under an encoder's manifest: its numbers do not matter here."""
    model = {**Bundle.open(decoder_bundle).manifest.model, "family": "dinov2", "config": {}}
    return rewritten(decoder_bundle, tmp_path / "encoder.dsr", inputs=(IMAGE,), outputs=(TOKENS,), model=model)


def _with(bundle: Path, **manifest: Any) -> dict[str, Bundle]:
    opened = Bundle.open(bundle)
    changed = Bundle(bundle, dataclasses.replace(opened.manifest, **manifest))
    return {"encoder" if changed.manifest.inputs[0].name == "image" else "decoder": changed}


def test_roles_are_told_and_ordered(decoder_bundle: Path, encoder: Path) -> None:
    opened = open_components([encoder, decoder_bundle])
    assert {role: bundle.path for role, bundle in opened.items()} == {"decoder": decoder_bundle, "encoder": encoder}
    assert list(opened) == ["decoder", "encoder"]
    assert open_components([]) == {}


def test_two_of_one_role_are_refused(decoder_bundle: Path, tmp_path: Path) -> None:
    other = shutil.copytree(decoder_bundle, tmp_path / "other.dsr")
    with pytest.raises(ExportError, match=r"both .*decoder\.dsr and .*other\.dsr hold the decoder") as caught:
        open_components([decoder_bundle, other])
    assert caught.value.hint == "give one of them"


def test_a_denoiser_is_no_component(denoiser_bundle: Path) -> None:
    with pytest.raises(ExportError, match=r"denoiser\.dsr is a denoiser") as caught:
        open_components([denoiser_bundle])
    assert "a decoder takes 'z'" in str(caught.value.hint)


def test_a_pipeline_is_no_component(pipeline_bundle: Path) -> None:
    with pytest.raises(ExportError, match=r"pipeline\.dsr holds components itself \(decoder\)"):
        open_components([pipeline_bundle])


def test_an_altered_component_is_refused_by_the_file(decoder_bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(decoder_bundle, tmp_path / "copy.dsr"))
    (copy / "golden.npz").write_bytes(b"\0" + (copy / "golden.npz").read_bytes()[1:])
    with pytest.raises(ExportError, match=r"copy\.dsr/golden\.npz was changed"):
        open_components([copy])


def test_parts_of_one_latent_fit(card: SubjectCard, decoder_bundle: Path) -> None:
    check_chain(card, open_components([decoder_bundle]))
    check_chain(card, _with(decoder_bundle, inputs=(IMAGE,), outputs=(TOKENS,)))
    check_chain(card, _with(decoder_bundle, inputs=(IMAGE,), outputs=(LATENT,)))
    check_chain(card, {})


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (dataclasses.replace(LATENT, shape=("batch", 9, 4, 4)), "the decoder .* takes 'z' float32 \\[9, 4, 4\\]"),
        (dataclasses.replace(LATENT, shape=("batch", 8, 4, 3)), "takes 'z' float32 \\[8, 4, 3\\]"),
        (dataclasses.replace(LATENT, shape=("batch", 4, 4, 8)), "takes 'z' float32 \\[4, 4, 8\\]"),
        (dataclasses.replace(LATENT, shape=("batch", 16, 8)), "takes 'z' float32 \\[16, 8\\]"),
        (dataclasses.replace(LATENT, dtype="float16"), "takes 'z' float16 \\[8, 4, 4\\]"),
        (dataclasses.replace(TOKENS, shape=("batch", 8, 16)), "the encoder .* gives 'tokens' float32 \\[8, 16\\]"),
        (dataclasses.replace(TOKENS, shape=("batch", 9, 8)), "gives 'tokens' float32 \\[9, 8\\]"),
    ],
)
def test_other_latents_are_refused_and_both_are_named(
    card: SubjectCard, decoder_bundle: Path, spec: TensorSpec, said: str
) -> None:
    specs = {"inputs": (spec,)} if spec.name == "z" else {"inputs": (IMAGE,), "outputs": (spec,)}
    with pytest.raises(ExportError, match=f"rae-dit has latents 'x' float32 \\[8, 4, 4\\], and .*{said}") as caught:
        check_chain(card, _with(decoder_bundle, **specs))
    right = "[16, 8]" if spec.name == "tokens" else "[8, 4, 4]"
    assert f"'{spec.name}' must be float32 {right}" in str(caught.value.hint)


@pytest.mark.parametrize("inputs", [(LATENT,), (dataclasses.replace(LATENT, name="x", shape=("batch", 128)),)])
def test_components_go_around_a_denoiser_only(
    card: SubjectCard, decoder_bundle: Path, inputs: tuple[TensorSpec, ...]
) -> None:
    other = dataclasses.replace(card, inputs=inputs)
    with pytest.raises(ExportError, match="takes no latent 'x'") as caught:
        check_chain(other, open_components([decoder_bundle]))
    assert "leave out --component" in str(caught.value.hint)
    check_chain(other, {})


def test_a_decoder_says_whose_pixels_it_makes(decoder_bundle: Path) -> None:
    decoder = Bundle.open(decoder_bundle)
    assert pixels_of(decoder) == PREPARATIONS["dinov2"]
    for config in ({}, {"encoder": "mine"}, {"encoder": ["siglip"]}):
        (own,) = _with(decoder_bundle, model={**decoder.manifest.model, "config": config}).values()
        assert pixels_of(own) is None
    grey = dataclasses.replace(IMAGE, shape=("batch", 1, 16, 16))
    assert pixels_of(_with(decoder_bundle, outputs=(grey,))["decoder"]) is None


def test_a_decoder_for_another_encoder_is_refused(decoder_bundle: Path, encoder: Path, tmp_path: Path) -> None:
    siglip = {**Bundle.open(encoder).manifest.model, "family": "siglip"}
    other = rewritten(encoder, tmp_path / "siglip.dsr", model=siglip)
    with pytest.raises(ExportError, match="makes pixels for dinov2, and the encoder .* is siglip") as caught:
        open_components([decoder_bundle, other])
    assert caught.value.hint == "build the decoder with --encoder siglip"
