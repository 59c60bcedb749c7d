"""The classes that the general adapter takes, or refuses with a reason. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from dsr_export.errors import ExportError, did_you_mean
from dsr_export.families.diffusers.general.recipes.hunyuan_classes import HUNYUAN_CLASSES
from dsr_export.families.diffusers.general.recipes.image_classes import IMAGE_CLASSES
from dsr_export.families.diffusers.general.recipes.other_classes import OTHER_CLASSES
from dsr_export.families.diffusers.general.recipes.packed_classes import PACKED_CLASSES
from dsr_export.families.diffusers.general.recipes.recipe import ClassRecipe, Refused
from dsr_export.families.diffusers.general.recipes.video_classes import VIDEO_CLASSES
from dsr_export.families.diffusers.supported import SUPPORTED

CLASSES: Mapping[str, ClassRecipe | Refused] = {
    **IMAGE_CLASSES,
    **PACKED_CLASSES,
    **VIDEO_CLASSES,
    **HUNYUAN_CLASSES,
    **OTHER_CLASSES,
}
BY_HAND = "write a function that loads it and returns (module, example inputs), and give it as module:callable"


_OTHER_KINDS = (
    ("ControlNet", "adds to another model's blocks, and has no output of its own"),
    ("Adapter", "adds to another model's blocks, and has no output of its own"),
    ("UNet", "is a UNet, and transformers are taken"),
    ("Autoencoder", "is an autoencoder, and transformers are taken"),
    ("VQModel", "is an autoencoder, and transformers are taken"),
    ("Decoder", "is a decoder, and transformers are taken"),
    ("Vocoder", "makes waves of spectra, and transformers are taken"),
    ("Pipeline", "is a pipeline: point at its folder, which holds a model_index.json"),
)
"""Parts of a class's name that say what else it is."""


def recipe_of(class_name: str, source: str = "") -> ClassRecipe:
    """The recipe of a diffusers class, which `source` names. ExportError, with the reason, where it has none."""
    found, where = CLASSES.get(class_name), f"{source}: " if source else ""
    if isinstance(found, Refused):
        raise ExportError(f"{where}{class_name} cannot be exported: {found.why}", hint=BY_HAND)
    if found is not None:
        return found
    near = did_you_mean(class_name, (*(each.class_name for each in SUPPORTED), *CLASSES))
    kind = next((why for part, why in _OTHER_KINDS if part in class_name), None)
    if kind is not None and not near:
        raise ExportError(f"{where}{class_name[:80]} {kind}", hint=BY_HAND)
    message = f"{where}nothing here knows the class '{class_name[:80]}'"
    raise ExportError(message, hint=f"{near} {BY_HAND}" if near else BY_HAND)
