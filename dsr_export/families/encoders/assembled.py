"""Makes a `VisionEncoder` of any `transformers` vision model that is one stack of layers over patches.

The model is run on noise. Where its parts, put together here, make other tokens than the model did, it is refused: so a
structure that is not understood never gives wrong numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dsr_export.errors import ExportError
from dsr_export.families.encoders.combination import Combination
from dsr_export.families.encoders.final_norm import final_norm
from dsr_export.families.encoders.layer_tables import LayerTables, grow_biases
from dsr_export.families.encoders.model_inputs import ModelInputs
from dsr_export.families.encoders.observed import HINT, Run, Step, is_norm, same, watched
from dsr_export.families.encoders.vision_encoder import EncoderParts, VisionEncoder

TOLERANCE = 1e-4  # of the largest number: sums in another order, no more


def assembled(model: nn.Module, inputs: ModelInputs, options: Mapping[str, Any]) -> tuple[VisionEncoder, Run]:
    """The encoder in `model` for `inputs` of one size, and the run it was read off.

    `options` are those of `Combination`, and `final_norm`. Raises ExportError where the model is something else.
    """
    image, other = inputs.noise(0), inputs.noise(1)
    run = watched(model, inputs.call(model, image))
    trained = int(getattr(model.config, "num_register_tokens", 0) or 0)
    for source in _sources(run, inputs.patches):
        zero = watched(model, inputs.call(model, other), zeroed=source.module)
        parts = _parts(run, zero, source, inputs, trained, options)
        if parts is None:
            continue
        encoder = VisionEncoder(parts).eval()
        _check_constant(run, zero)
        if _agrees(encoder, run, image):
            grow_biases(encoder.layers, run.biases)
            return encoder, run
    raise ExportError(
        f"the parts of {type(model).__name__} make other tokens than the model itself: it does more than embed "
        "patches, add positions and run its layers",
        hint=HINT,
    )


def _sources(run: Run, patches: int) -> list[Step]:
    """What may be the last step that depends on the image before positions are added: the projection, or a norm."""
    return [step for step in run.before if step.made.numel() == patches * run.tokens[0].shape[2]]


def _parts(
    run: Run, zero: Run, source: Step, inputs: ModelInputs, trained: int, options: Mapping[str, Any]
) -> EncoderParts | None:
    """With patches of zeros, what enters the sequence is the prefix and the positions alone."""
    projection = _projection(run, inputs)
    entry, table = _entry(run, zero)
    rows, patches = table.shape[1], inputs.patches
    if rows < patches:
        raise ExportError(f"{rows} tokens enter the first layer, and the image has {patches} patches", hint=HINT)
    if source.module is not projection and not is_norm(source.module):
        return None
    prefix = rows - patches
    return EncoderParts(
        projection=projection,
        patch_norm=None if source.module is projection else source.module,
        position=table[:, prefix:],
        prefix=table[:, :prefix],
        trained=min(trained, prefix),
        grid=inputs.grid,
        entry=entry,
        layers=run.layers,
        tables=LayerTables(run.calls, tokens=rows, patches=patches),
        norm=final_norm(run, options),
        combination=Combination.of(options, len(run.layers)),
    )


def _projection(run: Run, inputs: ModelInputs) -> nn.Conv2d | nn.Linear:
    """The one convolution of an image, or the one linear layer of flat patches."""
    kind = nn.Linear if inputs.flat else nn.Conv2d
    found = [step.module for step in run.before if isinstance(step.module, kind)]
    if len(found) != 1:
        raise ExportError(f"patches are made by {len(found)} {kind.__name__} layers, not by one", hint=HINT)
    projection = found[0]
    assert isinstance(projection, nn.Conv2d | nn.Linear)
    return projection


def _entry(run: Run, zero: Run) -> tuple[nn.Module | None, Tensor]:
    """A norm between embeddings and layers, if any; and the rows [1, L, C] that enter it, of patches of zeros."""
    for seen, blank in zip(run.before, zero.before, strict=True):
        if is_norm(seen.module) and same(seen.made, run.tokens[0]):
            return seen.module, blank.given
    return None, zero.tokens[0]


def _check_constant(run: Run, zero: Run) -> None:
    """What layers read beside tokens becomes constant: it must not differ from image to image."""
    for number, (one, other) in enumerate(zip(run.calls, zero.calls, strict=True)):
        pairs = zip(_tensors((one.args, one.kwargs)), _tensors((other.args, other.kwargs)), strict=True)
        if any(not left.is_meta and not same(left, right) for left, right in pairs):
            raise ExportError(f"layer {number} reads more than its tokens that depends on the image", hint=HINT)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    each = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    return [tensor for part in each for tensor in _tensors(part)]


@torch.no_grad()
def _agrees(encoder: VisionEncoder, run: Run, image: Tensor) -> bool:
    """Whether the encoder's last layer makes what the model's did."""
    if image.is_meta:
        return True
    norm, combination = encoder.norm, encoder.combination
    last = (len(encoder.layers) - 1,)
    encoder.norm, encoder.combination = nn.Identity(), replace(combination, layers=last, plus_mean=False)
    try:
        made = _without_failure(encoder, image)
    finally:
        encoder.norm, encoder.combination = norm, combination
    expected = run.tokens[-1][:, encoder.prefix.shape[1] :]
    if made is None:
        return False
    scale = max(1.0, float(expected.abs().max()))
    return bool((made - expected).abs().max() <= TOLERANCE * scale)


def _without_failure(encoder: Callable[[Tensor], Tensor], image: Tensor) -> Tensor | None:
    """None where the parts do not even fit each other."""
    try:
        return encoder(image)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return None
