"""`attach`: which parts of a pipeline a bundle stands for, and from when on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from dsr_export.backends.runtime_names import Runtime
from dsr_export.bundle.component_entries import TEXT_ENCODERS
from dsr_export.bundle.reader import Bundle
from dsr_export.diffusers.autoencoder import VAE, VAE_ENCODER, AttachedAutoencoder
from dsr_export.diffusers.matching import check_same_model
from dsr_export.diffusers.part import AttachedPart, Attachment
from dsr_export.diffusers.running import TRANSFORMER, Running
from dsr_export.diffusers.text_encoder import AttachedTextEncoder
from dsr_export.diffusers.transformer import AttachedTransformer
from dsr_export.errors import ExportError, did_you_mean

ALL = "all"
PARTS = (TRANSFORMER, VAE, *TEXT_ENCODERS)


def attach(
    pipe: Any, bundle: Bundle | Path | str, *, components: str | Iterable[str] = ALL, runtime: Runtime = "auto"
) -> AttachedPart:
    """Puts `bundle` in the place of the parts of `pipe` that it was built of; returns what stands there now.

    That is the transformer, and the text encoders and the vae that both have, or those of them that `components` names
    (`("transformer", "vae")`). They are called as before, in whatever type the pipeline works in, and give their
    outputs in that type. What is returned stands in the place of `pipe.transformer`, or of the first that is named;
    its `parts` are all of them. The weights are the bundle's: a LoRA, a changed layer or other weights of the
    pipeline's own do not count any more. `detach()`, or the end of a `with` block, puts all originals back.

    Raises:
        ExportError: a pipeline without a transformer or a part that is named, a bundle that lacks it, or was built of
            another class or other sizes, or a runtime that it does not have here; the pipeline is then as it was.
            Calls raise it for shapes and batches outside of the bundle, for arguments that it was not built with, and
            for outputs that it does not hold.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(Path(bundle))
    models = {role: _models(opened, role) for role in chosen_parts(pipe, opened, components)}
    originals = {role: _original(pipe, role) for role in models}
    for role, original in originals.items():
        for model in models[role].values():
            check_same_model(model, original, role)
    attachment = Attachment(pipe, _parts(originals, models, runtime))
    attachment.begin()
    return next(iter(attachment.parts.values()))


def chosen_parts(pipe: Any, bundle: Bundle, components: str | Iterable[str]) -> list[str]:
    """The roles of those that are to be attached, the transformer's first. Raises ExportError as `attach`."""
    asked = [components] if isinstance(components, str) else list(components)
    held = {TRANSFORMER, *bundle.components}
    if asked == [ALL]:
        return [role for role in PARTS if role == TRANSFORMER or (role in held and vars(pipe).get(role) is not None)]
    for name in asked:
        if name not in PARTS:
            named = f"parts: {', '.join(PARTS)}, or {ALL}"
            near = did_you_mean(str(name), PARTS)
            raise ExportError(f"a pipeline has no part '{name}'", hint=f"{near} {named}" if near else named)
        if name not in held and not (name == VAE and VAE_ENCODER in held):
            there = ", ".join(role for role in PARTS if role in held)
            hint = f"it holds {there}; build it with --model-dir and --components all"
            raise ExportError(f"{bundle.path} holds no {name}", hint=hint)
    if not asked:
        raise ExportError("no part is to be attached", hint=f"name some: {', '.join(PARTS)}, or {ALL}")
    return [role for role in PARTS if role in asked]


def _models(bundle: Bundle, role: str) -> dict[str, Bundle]:
    """The bundles that stand for a part: of an autoencoder, one for each way."""
    if role == TRANSFORMER:
        return {role: bundle}
    ways = (VAE, VAE_ENCODER) if role == VAE else (role,)
    return {way: bundle.components[way] for way in ways if way in bundle.components}


def _original(pipe: Any, role: str) -> nn.Module:
    found = vars(pipe).get(role)
    if isinstance(found, AttachedPart):
        raise ExportError(f"a bundle is attached to this pipeline's {role} already", hint="detach() it first")
    if not isinstance(found, nn.Module):
        hint = "attach() is for pipelines around one" if role == TRANSFORMER else "name others: components=..."
        raise ExportError(f"{type(pipe).__name__} has no {role}", hint=hint)
    return found


def _parts(
    originals: Mapping[str, nn.Module], models: Mapping[str, Mapping[str, Bundle]], runtime: Runtime
) -> dict[str, AttachedPart]:
    """One for each, with its models running; all of them, or none."""
    made: dict[str, AttachedPart] = {}
    with contextlib.ExitStack() as opening:
        for role, original in originals.items():
            running = []
            for way, bundle in models[role].items():
                running.append(Running(way, bundle, bundle.runner(runtime)))
                opening.callback(running[-1].close)
            kind = {TRANSFORMER: AttachedTransformer, VAE: AttachedAutoencoder}.get(role, AttachedTextEncoder)
            made[role] = kind(original, *running)
        opening.pop_all()
    return made
