"""From a denoiser's latents to pictures, by the decoder in its bundle."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.backends.base import Runner
from dsr_export.backends.opening import Say
from dsr_export.backends.runtime_names import Runtime
from dsr_export.bundle.reader import Bundle
from dsr_export.config import BatchRange
from dsr_export.drawing.chain import pixels_of
from dsr_export.errors import ExportError
from dsr_export.parity.batch_calls import filled
from dsr_export.progress import Bar

Array = npt.NDArray[Any]


def decode(bundle: Bundle, latents: Array, *, runtime: Runtime, progress: Bar, say: Say | None = None) -> Array:
    """Latents [n, C, h, w] as `draw` gives them -> images [n, 3, H, W] float32 in about [-1, 1].

    Raises:
        ExportError: the bundle holds no decoder, or the runtime asked for can't run it here.
    """
    return decode_with(bundle.component("decoder"), latents, runtime=runtime, progress=progress, say=say)


def decode_with(decoder: Bundle, latents: Array, *, runtime: Runtime, progress: Bar, say: Say | None = None) -> Array:
    """As `decode`, by the decoder's own bundle. ExportError where it is none."""
    if "z" not in {spec.name for spec in decoder.manifest.input_specs()}:
        raise ExportError(f"{decoder.path} is no decoder of latents", hint="build one: dsr-export build rae-decoder")
    pixels = pixels_of(decoder)
    with decoder.runner(runtime, say=say) as runner:
        images = _in_batches(runner, latents, decoder.manifest.batch_range(), progress)
    return images if pixels is None else pixels.undone(images)


def _in_batches(runner: Runner, latents: Array, batch: BatchRange, progress: Bar) -> Array:
    """The decoder's own batch range bounds every call; a short last batch is filled up with repeats and cut again."""
    images = []
    for start in range(0, len(latents), batch.max):
        z = latents[start : start + batch.max]
        images.append(np.asarray(runner.infer({"z": z[filled(len(z), batch.min)]})["image"], np.float32)[: len(z)])
        progress(start + len(z), len(latents))
    return np.concatenate(images)
