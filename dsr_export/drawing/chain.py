"""The bundles that go around a denoiser: opened, told apart, and held against its latents and each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from dsr_export.bundle.components import role_of
from dsr_export.bundle.reader import Bundle
from dsr_export.errors import ExportError
from dsr_export.images.preparation import PREPARATIONS, Preparation
from dsr_export.subject import SubjectCard
from graphs.artifacts import TensorSpec

LATENT = "x"


def open_components(paths: Iterable[Path]) -> dict[str, Bundle]:
    """Role -> verified bundle.

    Raises:
        ExportError: a path is no intact bundle, or no component; two have one role; or the decoder makes pixels for
            another encoder.
    """
    components: dict[str, Bundle] = {}
    for path in paths:
        bundle = Bundle.open(path)
        role = role_of(bundle.manifest, where=path)
        if role in components:
            raise ExportError(f"both {components[role].path} and {path} hold the {role}", hint="give one of them")
        components[role] = bundle
    _check_pixels(components)
    return dict(sorted(components.items()))


def check_chain(card: SubjectCard, components: Mapping[str, Bundle]) -> None:
    """Raises ExportError, naming both, where the denoiser's latent is not what a component takes or gives."""
    latent = next((spec for spec in card.inputs if spec.name == LATENT), None)
    for role, bundle in components.items():
        if latent is None or len(latent.shape) != 4:
            raise ExportError(
                f"{card.name} takes no latent '{LATENT}' [batch, channels, height, width], so no {role} fits",
                hint="leave out --component: it goes with the build of a denoiser",
            )
        _check_fits(card.name, latent, role, bundle)


def pixels_of(decoder: Bundle) -> Preparation | None:
    """How the decoder's pixels are scaled; None where it does not say, as a user's own, which makes [-1, 1]."""
    model, image = decoder.manifest.model, decoder.manifest.outputs[0]
    family = model["config"].get("encoder")
    return PREPARATIONS.get(family) if isinstance(family, str) and image.shape[1] == 3 else None


def _check_fits(name: str, latent: TensorSpec, role: str, bundle: Bundle) -> None:
    spec, verb = (bundle.manifest.inputs[0], "takes") if role == "decoder" else (bundle.manifest.outputs[0], "gives")
    channels, height, width = latent.with_batch(1)[1:]
    wanted = (height * width, channels) if spec.name == "tokens" else (channels, height, width)
    if (spec.dtype, spec.shape[1:]) != (latent.dtype, wanted):
        raise ExportError(
            f"{name} has latents {_shown(latent)}, and the {role} {bundle.path} {verb} {_shown(spec)}",
            hint=f"build both for the same latents: here '{spec.name}' must be {latent.dtype} {list(wanted)}",
        )


def _check_pixels(components: Mapping[str, Bundle]) -> None:
    if len(components) < 2:
        return
    decoder, encoder = components["decoder"], components["encoder"]
    family = encoder.manifest.model["family"]
    made, taken = pixels_of(decoder), PREPARATIONS.get(family)
    if made and taken and (made.mean, made.std) != (taken.mean, taken.std):
        raise ExportError(
            f"the decoder {decoder.path} makes pixels for {decoder.manifest.model['config']['encoder']}, "
            f"and the encoder {encoder.path} is {family}",
            hint=f"build the decoder with --encoder {family}",
        )


def _shown(spec: TensorSpec) -> str:
    return f"'{spec.name}' {spec.dtype} {list(spec.shape[1:])}"
